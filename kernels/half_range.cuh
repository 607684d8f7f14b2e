// half_range.cuh: fp16 that stays finite, and powers of two that make larger values fit.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "runtime/base/codec.h"

namespace vkv {

// The nearest fp16; beyond the largest, the largest.
__device__ inline __half finite_half(float value) {
  return __float2half_rn(fminf(fmaxf(value, -kHalfMax), kHalfMax));
}

// The least power of two by which magnitudes up to that one, as bits of fp32, must be divided to
// stay at or below 2^15: 1 if they are.
__device__ inline float excess(uint32_t magnitude_bits) {
  const int exponent = static_cast<int>(magnitude_bits >> 23) - 127;
  return exponent < 15 ? 1.0f : __uint_as_float(static_cast<uint32_t>(exponent - 14 + 127) << 23);
}

}  // namespace vkv
