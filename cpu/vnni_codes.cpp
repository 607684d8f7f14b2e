// vnni_codes.cpp: codes leave the record for a register, meet all rows there, and are forgotten.
// SPDX-License-Identifier: Apache-2.0
//
// A vector of code_rows.h holds four columns of 16 stored rows; VPDPBUSD adds to each of its 16
// sums the products with the same four bytes of one row, which it broadcasts. It wants one operand
// unsigned and one signed. Rows of queries are signed: so codes are unsigned, as they are stored.
// Rows of weights are unsigned: so codes are signed, 8-bit ones less 128.
#include <immintrin.h>

#include "cpu/ahead.h"
#include "cpu/code_rows.h"
#include "cpu/vnni_functions.h"

namespace vkv::VKV_ISA {
namespace {

constexpr int kRowsMax = 14;  // at a time: with two tiles' sums they fill the registers

inline int32_t sum_of_bytes(const uint8_t* row, int k) {
  __m512i sum = _mm512_setzero_si512();
  for (int i = 0; i < k; i += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i));
    sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), _mm512_zextsi256_si512(bytes));
  }
  return _mm512_reduce_add_epi32(sum);
}

// sums[tile][row] += codes of four columns times row bytes [4]; kTiles x 16 stored rows.
template <int kRows, int kTiles, bool kSigned>
inline void add_quad(const __m512i (&codes)[kTiles], const uint8_t* rows, size_t row_stride,
                     __m512i (&sums)[kTiles][kRows]) {
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
    int32_t quad;
    __builtin_memcpy(&quad, rows + static_cast<size_t>(row) * row_stride, sizeof(quad));
    const __m512i quads = _mm512_set1_epi32(quad);
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i)
      sums[i][row] = kSigned ? _mm512_dpbusd_epi32(sums[i][row], codes[i], quads)
                             : _mm512_dpbusd_epi32(sums[i][row], quads, codes[i]);
  }
}

// Codes of 8 bits against signed rows count as they are.
template <int kBits, bool kSigned>
inline __m512i codes_at(const uint32_t* words, int row_tile, int half, int t) {
  const __m512i codes = code_rows<kBits>(words, row_tile, half, t);
  if constexpr (kBits == 8 && kSigned) return _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
  return codes;
}

// kTiles * 16 stored rows from `n` on against kRows rows.
template <int kBits, bool kSigned, int kRows, int kTiles>
inline void multiply_tiles(const CodeTile& tile, int n, const ByteRows& rows,
                           const int32_t* code_bias, int32_t* products, int product_stride) {
  const uint32_t* words[kTiles];
  int row_tile[kTiles];
  __m512i sums[kTiles][kRows];
  // All loops over sums are unrolled: what is indexed by a variable would lie in memory.
#pragma GCC unroll 4
  for (int i = 0; i < kTiles; ++i) {
    words[i] = code_words<kBits>(tile, n + 16 * i);
    row_tile[i] = code_row_tile<kBits>(tile, n + 16 * i);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row)
      sums[i][row] =
          kBits == 8 && kSigned ? _mm512_set1_epi32(code_bias[row]) : _mm512_setzero_si512();
  }
  const size_t stride = static_cast<size_t>(rows.stride);
  const int columns = tile.column_end - tile.column_begin;
  for (int column = 0; column < columns; column += 32) {
    const uint8_t* const bytes = rows.bytes + column;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half)
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        __m512i codes[kTiles];
#pragma GCC unroll 4
        for (int i = 0; i < kTiles; ++i)
          // Pairs of tiles begin at a multiple of 32 rows, so that this is known to the compiler.
          codes[i] = codes_at<kBits, kSigned>(
              words[i], kTiles > 1 && kBits == 1 ? i % 2 : row_tile[i], half, t);
        add_quad<kRows, kTiles, kSigned>(codes, bytes + 16 * half + 4 * t, stride, sums);
      }
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i) words[i] += kCodeWords<kBits>;
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i)
      _mm512_storeu_si512(products + static_cast<size_t>(row) * product_stride + n + 16 * i,
                          sums[i][row]);
}

template <int kBits, bool kSigned, int kRows>
void multiply_rows(const CodeTile& tile, const ByteRows& rows, int32_t* products,
                   int product_stride) {
  int32_t code_bias[kRows] = {};
  const int n = tile.row_end - tile.row_begin;
  if (kBits == 8 && kSigned)
    for (int row = 0; row < kRows; ++row)
      code_bias[row] = -128 * sum_of_bytes(rows.bytes + static_cast<size_t>(row) * rows.stride,
                                           tile.column_end - tile.column_begin);
  // Few rows take more tiles, so that no sum waits for its own last addition.
  constexpr int kTiles = kRows <= 4 ? 4 : 2;
  int row = 0;
  for (; row + 16 * kTiles <= n; row += 16 * kTiles) {
    for (int i = 0; i < kTiles; i += 2) step(tile.ahead);
    multiply_tiles<kBits, kSigned, kRows, kTiles>(tile, row, rows, code_bias, products,
                                                  product_stride);
  }
  for (; row < n; row += 32) {
    step(tile.ahead);
    multiply_tiles<kBits, kSigned, kRows, 2>(tile, row, rows, code_bias, products, product_stride);
  }
}

// Planes come in twos.
template <int kBits, bool kSigned>
constexpr auto multiplier_of(int row_count) {
  return row_count <= 2    ? multiply_rows<kBits, kSigned, 2>
         : row_count <= 4  ? multiply_rows<kBits, kSigned, 4>
         : row_count <= 6  ? multiply_rows<kBits, kSigned, 6>
         : row_count <= 8  ? multiply_rows<kBits, kSigned, 8>
         : row_count <= 10 ? multiply_rows<kBits, kSigned, 10>
         : row_count <= 12 ? multiply_rows<kBits, kSigned, 12>
                           : multiply_rows<kBits, kSigned, kRowsMax>;
}

template <bool kSigned>
constexpr auto multiplier_of(int bits, int row_count) {
  return bits == 8   ? multiplier_of<8, kSigned>(row_count)
         : bits == 4 ? multiplier_of<4, kSigned>(row_count)
         : bits == 2 ? multiplier_of<2, kSigned>(row_count)
                     : multiplier_of<1, kSigned>(row_count);
}

}  // namespace

void multiply_codes(const CodeTile& tile, const ByteRows& rows, int32_t* products,
                    int product_stride) {
  // In equal parts, each of an even number of rows; the last may be one row too long, for which
  // both memories have room.
  const int parts = (rows.count + kRowsMax - 1) / kRowsMax;
  const int part_rows = ((rows.count + parts - 1) / parts + 1) / 2 * 2;
  for (int row = 0; row < rows.count; row += part_rows) {
    const int count = rows.count - row < part_rows ? rows.count - row : part_rows;
    ByteRows part = rows;
    part.bytes += static_cast<size_t>(row) * static_cast<size_t>(rows.stride);
    part.count = count;
    const auto multiply = rows.is_signed ? multiplier_of<true>(tile.bits, count)
                                         : multiplier_of<false>(tile.bits, count);
    multiply(tile, part, products + static_cast<size_t>(row) * product_stride, product_stride);
  }
}

}  // namespace vkv::VKV_ISA
