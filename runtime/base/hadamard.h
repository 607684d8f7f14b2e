// hadamard.h: the rotation that spreads a key's outliers over all its channels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vkv/types.h"

namespace vkv {

VKV_HD constexpr bool is_power_of_two(int count) { return count > 0 && (count & (count - 1)) == 0; }

// 1 / sqrt(count) to fp32; count is a power of two.
VKV_HD constexpr float hadamard_scale(int count) {
  float scale = 1.0f;
  for (; count >= 4; count /= 4) scale *= 0.5f;
  return count == 2 ? scale * 0.70710678118654752f : scale;
}

// x = H x, H the Sylvester matrix over sqrt(count); count is a power of two. H is its own inverse.
//
// The order is part of the format, for encoders must agree bit for bit: stages of distance
// h = 1, 2, 4 ... count / 2, each of which replaces a = x[i], b = x[i + h], i & h == 0, by a + b
// and a - b; then every x is multiplied by hadamard_scale(count). No fma.
template <class Float>
VKV_HD constexpr void hadamard(Float* x, int count) {
  for (int h = 1; h < count; h *= 2) {
    for (int i = 0; i < count; ++i) {
      if ((i & h) != 0) continue;
      const Float a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
  for (int i = 0; i < count; ++i) x[i] *= hadamard_scale(count);
}

}  // namespace vkv
