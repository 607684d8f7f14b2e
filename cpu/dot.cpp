// dot.cpp: dot products of fp32 rows with rows of 16-bit values, eight of those at a time.
// SPDX-License-Identifier: Apache-2.0
//
// Each value is loaded and widened once and meets every row while it is in a register. Lanes are
// added across only for eight sums together.
#include "cpu/dot.h"

#include <immintrin.h>

#include "cpu/ahead.h"
#include "cpu/lanes.h"
#include "cpu/transpose.h"

namespace vkv::VKV_ISA {
namespace {

constexpr int kDotRowsMax = 8;  // rows a pass
constexpr int kChunk = 128;     // columns that registers, or at least the nearest cache, hold

// Lane i of the result is the sum of the lanes of sums[i].
inline Floats8 sums_across(const Floats8 (&sums)[8]) {
  Floats8 pairs[4], quads[2];
  for (int i = 0; i < 4; ++i) pairs[i] = _mm256_hadd_ps(sums[2 * i], sums[2 * i + 1]);
  for (int i = 0; i < 2; ++i) quads[i] = _mm256_hadd_ps(pairs[2 * i], pairs[2 * i + 1]);
  return _mm256_permute2f128_ps(quads[0], quads[1], 0x20) +
         _mm256_permute2f128_ps(quads[0], quads[1], 0x31);
}

// Lanes of the products of eight stored rows with one row over some columns: kVectors * 16.
template <int kVectors>
inline void add_lanes(const Floats (&values)[kVectors], const float* row, Floats* sum) {
  Floats even = *sum, odd = {};
  for (int i = 0; i < kVectors; ++i) {
    Floats& target = i % 2 == 0 ? even : odd;
    target += values[i] * load<Floats>(row + i * kLanes);
  }
  *sum = even + odd;
}

template <bool kBfloat>
void dot_halves_of(const HalfTile& tile, const float* rows, int row_count, int row_stride,
                   float* products, int product_stride) {
  alignas(64) Floats sums[8][kDotRowsMax];
  const int padded_rows = (tile.row_count + 31) / 32 * 32;
  for (int n = 0; n < padded_rows; n += 8) {
    step(tile.ahead);
    for (int g = 0; g < 8; ++g) {
      for (int row = 0; row < row_count; ++row) sums[g][row] = Floats{};
      if (n + g >= tile.row_count) continue;
      const uint16_t* source = tile.values + static_cast<size_t>(n + g) * tile.row_stride;
      int column = 0;
      for (; column + kChunk <= tile.column_count; column += kChunk) {
        Floats values[kChunk / kLanes];
        for (int i = 0; i < kChunk / kLanes; ++i)
          values[i] = widen_16<kBfloat>(source + column + i * kLanes);
        for (int row = 0; row < row_count; ++row)
          add_lanes(values, rows + row * row_stride + column, &sums[g][row]);
      }
      for (; column < tile.column_count; column += 8) {
        const __m256 values = widen<kBfloat>(load_halves(source + column));
        for (int row = 0; row < row_count; ++row) {
          const __m256 product = values * _mm256_loadu_ps(rows + row * row_stride + column);
          const __m256 sum = load<Floats8>(&sums[g][row]) + product;
          store(&sums[g][row], sum);
        }
      }
    }
    for (int row = 0; row < row_count; ++row) {
      Floats8 halves[8];
      for (int g = 0; g < 8; ++g) halves[g] = low_half(sums[g][row]) + high_half(sums[g][row]);
      store(products + static_cast<size_t>(row) * product_stride + n, sums_across(halves));
    }
  }
}

// Two vectors of columns at a time, so that the sums of all rows stay in registers.
template <bool kBfloat, int kRows>
void sum_columns(const HalfTile& tile, const float* rows, int row_stride, float* products,
                 int product_stride) {
  constexpr int kColumns = 2 * kLanes;
  for (int column = 0; column < tile.padded_columns; column += kColumns) {
    Floats sums[kRows][2] = {};
    const bool whole = column + kColumns <= tile.column_count;
    for (int n = 0; n < tile.row_count; ++n) {
      const uint16_t* source = tile.values + static_cast<size_t>(n) * tile.row_stride + column;
      uint16_t some[kColumns] = {};
      if (!whole) {
        for (int i = 0; column + i < tile.column_count; ++i) some[i] = source[i];
        source = some;
      }
      const Floats left = widen_16<kBfloat>(source), right = widen_16<kBfloat>(source + kLanes);
      for (int row = 0; row < kRows; ++row) {
        const float weight = rows[row * row_stride + n];
        sums[row][0] += left * weight;
        sums[row][1] += right * weight;
      }
    }
    for (int row = 0; row < kRows; ++row) {
      store(products + row * product_stride + column, sums[row][0]);
      store(products + row * product_stride + column + kLanes, sums[row][1]);
    }
  }
}

template <bool kBfloat, int kRows = kDotRowsMax>
void sum_rows(const HalfTile& tile, const float* rows, int row_count, int row_stride,
              float* products, int product_stride) {
  if constexpr (kRows > 1)
    if (row_count < kRows)
      return sum_rows<kBfloat, kRows - 1>(tile, rows, row_count, row_stride, products,
                                          product_stride);
  sum_columns<kBfloat, kRows>(tile, rows, row_stride, products, product_stride);
}

}  // namespace

void dot_halves(const HalfTile& tile, const float* rows, int row_count, int row_stride,
                float* products, int product_stride) {
  const auto dot = tile.bfloat ? dot_halves_of<true> : dot_halves_of<false>;
  for (int row = 0; row < row_count; row += kDotRowsMax) {
    const int count = row_count - row < kDotRowsMax ? row_count - row : kDotRowsMax;
    dot(tile, rows + static_cast<size_t>(row) * row_stride, count, row_stride,
        products + static_cast<size_t>(row) * product_stride, product_stride);
  }
}

void sum_halves(const HalfTile& tile, const float* rows, int row_count, int row_stride,
                float* products, int product_stride) {
  const auto sum = tile.bfloat ? sum_rows<true> : sum_rows<false>;
  for (int row = 0; row < row_count; row += kDotRowsMax) {
    const int count = row_count - row < kDotRowsMax ? row_count - row : kDotRowsMax;
    sum(tile, rows + static_cast<size_t>(row) * row_stride, count, row_stride,
        products + static_cast<size_t>(row) * product_stride, product_stride);
  }
}

}  // namespace vkv::VKV_ISA
