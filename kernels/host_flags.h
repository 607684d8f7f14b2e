// host_flags.h: the kernels of both ends of the CPU's part of attention.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/host_share.h"

namespace vkv {

// Floats on their way to pinned memory.
struct HostCopy {
  const float* source = nullptr;
  float* target = nullptr;
  uint32_t count = 0;  // a multiple of 4, both aligned to 16 bytes
};
struct HostCopies {
  HostCopy copies[2 * kHostItemsMax];
  int count = 0;
};

// Copies, then raises `asked` to the number.
Status launch_ask_host(const HostCopies& copies, HostCallWords* words, uint32_t number,
                       cudaStream_t stream);

}  // namespace vkv
