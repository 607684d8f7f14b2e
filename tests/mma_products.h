// mma_products.h: packed codes times a few columns of small integers, by tensor cores.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vkv/status.h"

namespace vkv {

inline constexpr int kMmaColumns = 8;  // n of the products

struct MmaProducts {
  std::vector<int32_t> integers;  // [rows, kMmaColumns], by mma.m16n8k32 on the codes as they are
  std::vector<float> halves;      // [rows, kMmaColumns], by mma.m16n8k16 on the codes as fp16
};

// packed: a matrix [rows, columns] in the order of code_position(), rows and columns multiples of
// 32; right: [kMmaColumns, columns]. No word is moved before the product: what the order promises.
// Errors: kUnsupported where there is no GPU, kCuda naming the call.
Result<MmaProducts> mma_products(int bits, int rows, int columns, std::span<const uint32_t> packed,
                                 std::span<const int8_t> right);

}  // namespace vkv
