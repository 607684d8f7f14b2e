// merge.h: partial results of attention from anywhere, merged on the GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/host_share.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// A call of the host whose results are among the partials: the kernel waits for them.
struct HostResults {
  HostCallWords* words = nullptr;  // nullptr: nothing to wait for
  uint32_t number = 0;
};

// As Backend::merge(), queued on the stream. Partials lie in device memory or in mapped host
// memory, where the CPU may have left its own; the list of them is read during the call. Bits
// depend on values alone.
Status launch_merge(const MergeItem& item, cudaStream_t stream, const HostResults& host = {});

}  // namespace vkv
