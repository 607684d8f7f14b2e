// rotate.cpp: butterflies, eight channels at a time.
// SPDX-License-Identifier: Apache-2.0
//
// Compiled without contraction to fma: the encoder's bits must not depend on the instruction set.
#include "cpu/rotate.h"

#include "cpu/lanes.h"
#include "runtime/base/hadamard.h"  // evaluated here at compile time only

namespace vkv::VKV_ISA {
namespace {

constexpr float kHadamardScales[] = {hadamard_scale(8),  hadamard_scale(16),  hadamard_scale(32),
                                     hadamard_scale(64), hadamard_scale(128), hadamard_scale(256)};

// hadamard() of hadamard.h, in its order. Distances below 8 stay inside a vector, where a - b is
// b * -1 + a: no other rounding, as only a sign changes.
void rotate_row(float* values, int count) {
  constexpr Ints8 kSwap1 = {1, 0, 3, 2, 5, 4, 7, 6};
  constexpr Ints8 kSwap2 = {2, 3, 0, 1, 6, 7, 4, 5};
  constexpr Ints8 kSwap4 = {4, 5, 6, 7, 0, 1, 2, 3};
  constexpr Floats8 kSign1 = {1, -1, 1, -1, 1, -1, 1, -1};
  constexpr Floats8 kSign2 = {1, 1, -1, -1, 1, 1, -1, -1};
  constexpr Floats8 kSign4 = {1, 1, 1, 1, -1, -1, -1, -1};
  for (int c = 0; c < count; c += 8) {
    Floats8 x = load<Floats8>(values + c);
    x = __builtin_shuffle(x, kSwap1) + x * kSign1;
    x = __builtin_shuffle(x, kSwap2) + x * kSign2;
    x = __builtin_shuffle(x, kSwap4) + x * kSign4;
    store(values + c, x);
  }
  for (int h = 8; h < count; h *= 2) {
    for (int c = 0; c < count; c += 8) {
      if ((c & h) != 0) continue;
      const Floats8 a = load<Floats8>(values + c), b = load<Floats8>(values + c + h);
      store(values + c, Floats8(a + b));
      store(values + c + h, Floats8(a - b));
    }
  }
  const float scale = kHadamardScales[__builtin_ctz(static_cast<unsigned>(count)) - 3];
  for (int c = 0; c < count; c += 8) store(values + c, Floats8(load<Floats8>(values + c) * scale));
}

}  // namespace

void rotate_rows(float* values, int rows, int channels, int head_dim) {
  for (int row = 0; row < rows; ++row)
    rotate_row(values + static_cast<size_t>(row) * static_cast<size_t>(channels), head_dim);
}

}  // namespace vkv::VKV_ISA
