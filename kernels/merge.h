// merge.h: partial results of attention from anywhere, merged on the GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// As Backend::merge(), queued on the stream. Partials lie in device memory or in mapped host
// memory, where the CPU may have left its own; the list of them is read during the call. Bits
// depend on values alone.
Status launch_merge(const MergeItem& item, cudaStream_t stream);

}  // namespace vkv
