// host_flags.cu: queries to the host.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/host_flags.h"
#include "kernels/host_words.cuh"

namespace vkv {
namespace {

constexpr int kThreads = 512;

__global__ void __launch_bounds__(kThreads)
    ask_host_kernel(const __grid_constant__ HostCopies copies, HostCallWords* words,
                    uint32_t number) {
  for (int i = 0; i < copies.count; ++i) {
    const HostCopy& copy = copies.copies[i];
    for (uint32_t at = threadIdx.x * 4; at < copy.count; at += kThreads * 4)
      *reinterpret_cast<float4*>(copy.target + at) =
          *reinterpret_cast<const float4*>(copy.source + at);
  }
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x != 0) return;
  words->asked_ns = device_ns();
  raise_for_host(&words->asked, number);
}

}  // namespace

Status launch_ask_host(const HostCopies& copies, HostCallWords* words, uint32_t number,
                       cudaStream_t stream) {
  ask_host_kernel<<<1, kThreads, 0, stream>>>(copies, words, number);
  return launch_status("ask_host_kernel");
}

}  // namespace vkv
