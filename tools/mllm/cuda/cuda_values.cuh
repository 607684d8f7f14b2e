// cuda_values.cuh: values that kernels read and write as fp32 or bf16, and sums over a block.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>

namespace vkv {

inline __device__ float widened(float value) { return value; }
inline __device__ float widened(__nv_bfloat16 value) { return __bfloat162float(value); }

inline __device__ void store(float value, float* target) { *target = value; }
inline __device__ void store(float value, __nv_bfloat16* target) {
  *target = __float2bfloat16_rn(value);
}

// The sum over all threads, in each of them. blockDim.x is a multiple of 32; all threads call.
inline __device__ float block_sum(float value) {
  __shared__ float partial[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  __syncthreads();  // of an earlier call: all have read
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < warps; ++i) sum += partial[i];
  return sum;
}

}  // namespace vkv
