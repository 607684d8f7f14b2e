// mma_packing_test.cpp: packed words are operands of mma.m16n8k32 and m16n8k16 as they lie in a
// record: products of every width and shape are exact.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "runtime/base/block_format.h"
#include "tests/mma_products.h"

namespace vkv {
namespace {

struct Matrix {
  int rows, columns;
  std::vector<uint8_t> codes;  // [rows, columns]
};

std::vector<uint32_t> pack(int bits, const Matrix& matrix) {
  std::vector<uint32_t> words(matrix.codes.size() * static_cast<size_t>(bits) / 32);
  for (int row = 0; row < matrix.rows; ++row)
    for (int column = 0; column < matrix.columns; ++column) {
      const CodePosition at = code_position(bits, matrix.columns, row, column);
      words[at.word] |= uint32_t{matrix.codes[static_cast<size_t>(row * matrix.columns + column)]}
                        << at.bit;
    }
  return words;
}

// Sums stay below 2^24, so that fp32 sums of fp16 products are exact as well.
void expect_exact_products(int bits, const Matrix& matrix, const std::vector<int8_t>& right) {
  const auto products = mma_products(bits, matrix.rows, matrix.columns, pack(bits, matrix), right);
  if (!products.ok() && products.status().code() == Code::kUnsupported)
    GTEST_SKIP() << products.status().message();
  ASSERT_TRUE(products.ok()) << products.status().message();
  int mismatches = 0;
  for (int row = 0; row < matrix.rows; ++row)
    for (int n = 0; n < kMmaColumns; ++n) {
      int32_t expected = 0;
      for (int column = 0; column < matrix.columns; ++column)
        expected += matrix.codes[static_cast<size_t>(row * matrix.columns + column)] *
                    right[static_cast<size_t>(n * matrix.columns + column)];
      const size_t at = static_cast<size_t>(row * kMmaColumns + n);
      mismatches += products.value().integers[at] != expected;
      mismatches += products.value().halves[at] != static_cast<float>(expected);
    }
  EXPECT_EQ(mismatches, 0) << bits << " bits, " << matrix.rows << " x " << matrix.columns;
}

class mma_packing : public testing::TestWithParam<int> {};

TEST_P(mma_packing, random_codes_times_random_integers_are_exact) {
  const int bits = GetParam();
  std::mt19937 random(20260101);
  std::uniform_int_distribution<int> code(0, (1 << bits) - 1), integer(-128, 127);
  for (const int rows : {32, 64, 96, 128, 256})
    for (const int columns : {32, 64, 96, 128, 256}) {
      Matrix matrix{.rows = rows, .columns = columns, .codes = {}};
      for (int i = 0; i < rows * columns; ++i)
        matrix.codes.push_back(static_cast<uint8_t>(code(random)));
      std::vector<int8_t> right;
      for (int i = 0; i < kMmaColumns * columns; ++i)
        right.push_back(static_cast<int8_t>(integer(random)));
      expect_exact_products(bits, matrix, right);
      if (IsSkipped()) return;
    }
}

// Each code alone: a wrong place of any one of them would show.
TEST_P(mma_packing, every_single_code_reaches_its_own_row_and_column) {
  const int bits = GetParam(), rows = 32, columns = 64;
  std::vector<int8_t> right;
  for (int i = 0; i < kMmaColumns * columns; ++i)
    right.push_back(static_cast<int8_t>(i % columns * 2 - columns + i / columns));
  for (int i = 0; i < rows * columns; ++i) {
    Matrix matrix{.rows = rows, .columns = columns, .codes = {}};
    matrix.codes.resize(static_cast<size_t>(rows * columns));
    matrix.codes[static_cast<size_t>(i)] = static_cast<uint8_t>((1 << bits) - 1);
    expect_exact_products(bits, matrix, right);
    if (IsSkipped() || HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(bits, mma_packing, testing::Values(8, 4, 2, 1));

}  // namespace
}  // namespace vkv
