// encode_values.cuh: 16-bit values on their way to the encoder: fp32, rotated, refused.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/encode_part.h"
#include "runtime/base/codec.h"
#include "runtime/base/hadamard.h"

namespace vkv {

inline constexpr uint32_t kAllLanes = ~0u;  // of a warp

// Two adjacent values. Exact.
__device__ inline float2 floats_from_pair(uint32_t pair, bool bfloat) {
  if (bfloat) return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

__device__ inline float float_from_bits(uint16_t bits, bool bfloat) {
  return bfloat ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                : __half2float(__ushort_as_half(bits));
}

// Finite numbers as float_from_half() and half_from_float() of codec.h, in one instruction.
__device__ inline float device_float_from_half(uint16_t half) {
  return __half2float(__ushort_as_half(half));
}
__device__ inline uint16_t device_half_from_float(float value) {
  return __half_as_ushort(__float2half_rn(value));
}

// NaN where one of them is, as comparisons of codec.h leave it; fminf() would drop it.
__device__ inline float least_or_nan(float a, float b) {
  float least;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(least) : "f"(a), "f"(b));
  return least;
}
__device__ inline float greatest_or_nan(float a, float b) {
  float greatest;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(greatest) : "f"(a), "f"(b));
  return greatest;
}

// Eight adjacent channels of a token, minus the mean.
__device__ inline void load_eight(const EncodePart& part, int kv_head, int row, int channel,
                                  float (&x)[8]) {
  const uint4 bits = __ldg(reinterpret_cast<const uint4*>(part.token(kv_head, row) + channel));
  const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
  for (int i = 0; i < 4; ++i) {
    const float2 values = floats_from_pair(pairs[i], part.bfloat);
    x[2 * i] = values.x;
    x[2 * i + 1] = values.y;
  }
  if (part.mean == nullptr) return;
  const float* mean = part.mean + kv_head * part.head_dim + channel;
  for (int i = 0; i < 8; ++i) x[i] -= mean[i];
}

// hadamard() of a row whose channels 8 * i .. 8 * i + 7 thread i of head_dim / 8 neighbours has.
// All threads of the warp must call it.
__device__ inline void rotate_eight(float (&x)[8], int head_dim) {
#pragma unroll
  for (int h = 1; h < 8; h *= 2) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if ((i & h) != 0) continue;
      const float a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
  for (int distance = 1; distance < head_dim / 8; distance *= 2) {
    // The upper of two threads has b and takes a - b; b * -1 is exact, so this is no contraction.
    const float sign = (threadIdx.x & distance) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      x[i] = __fmaf_rn(x[i], sign, __shfl_xor_sync(kAllLanes, x[i], distance));
  }
  const float scale = hadamard_scale(head_dim);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] *= scale;
}

__device__ inline void report_error(const EncodePart& part, int kv_head, EncodeError error,
                                    int index, uint64_t* first_error) {
  atomicMin(reinterpret_cast<unsigned long long*>(first_error),
            static_cast<unsigned long long>(error_key(part, kv_head, error, index)));
}

// Called by all threads of a block after one of them met a value that is not finite: names the
// first channel that holds one before rotation; without one, rotation made it so.
__device__ inline void report_not_finite(const EncodePart& part, int kv_head,
                                         uint64_t* first_error) {
  const float* mean = part.mean == nullptr ? nullptr : part.mean + kv_head * part.head_dim;
  int first = part.head_dim;
  for (int channel = threadIdx.x; channel < part.head_dim; channel += blockDim.x) {
    for (int row = 0; row < part.row_count && first == part.head_dim; ++row) {
      float value = float_from_bits(part.token(kv_head, row)[channel], part.bfloat);
      if (mean != nullptr) value -= mean[channel];
      if (!is_finite(value)) first = channel;
    }
  }
  const bool found = first < part.head_dim;
  if (found) report_error(part, kv_head, EncodeError::kNotFinite, first, first_error);
  if (__syncthreads_or(found) == 0 && threadIdx.x == 0)
    report_error(part, kv_head, EncodeError::kRotation, 0, first_error);
}

}  // namespace vkv
