// code_rows.h: packed codes -> vectors of 16 stored rows, four columns each, in one instruction.
// SPDX-License-Identifier: Apache-2.0
//
// Such a vector is a row of an AMX tile's B, and an operand of VPDPBUSD. Included only by sources
// that are compiled once per instruction set, with AVX-512 and GFNI; see lanes.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/tile_functions.h"

namespace vkv::VKV_ISA {

// What GF2P8AFFINEQB multiplies each byte by (Intel SDM, volume 2: byte 7 - i of the matrix gives
// bit i of the result) to leave the code in bits [shift, shift + bits).
constexpr uint64_t code_matrix(int bits, int shift) {
  uint64_t matrix = 0;
  for (int i = 0; i < bits; ++i) matrix |= uint64_t{1} << (shift + i) << (8 * (7 - i));
  return matrix;
}

// Rows 0 to 7 stand in `plane`, rows 8 to 15 in the next.
template <int kBits>
inline __m512i code_matrices(int plane) {
  const auto at = [](int p) { return static_cast<int64_t>(code_matrix(kBits, p * kBits)); };
  return _mm512_inserti64x4(_mm512_set1_epi64(at(plane)), _mm256_set1_epi64x(at(plane + 1)), 1);
}

// Codes of 16 stored rows in columns 16 * column_half + 4 * t .. + 3 of 32; codes of 8 bits less
// 128. words: those of the 32 columns. row_tile: which 16 of the rows that share words. The order
// is that of code_position() in runtime/base/block_format.h.
template <int kBits>
inline __m512i code_rows(const uint32_t* words, int row_tile, int column_half, int t) {
  const auto group = [&](int index) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(words + index * 8));
  };
  if constexpr (kBits == 8) {
    const __m512i codes = _mm512_inserti64x4(_mm512_castsi256_si512(group(column_half * 8 + t)),
                                             group(column_half * 8 + 4 + t), 1);
    return _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
  } else {
    // Rows 0 to 7 and 8 to 15 are neighbouring planes of the same words.
    const int plane = kBits == 4 ? 0 : row_tile * 4 + column_half * 2;
    const __m512i twice = _mm512_broadcast_i64x4(group((kBits == 4 ? column_half * 4 : 0) + t));
    return _mm512_gf2p8affine_epi64_epi8(twice, code_matrices<kBits>(plane), 0);
  }
}

template <int kBits>
inline constexpr int kCodeGroupRows = kBits == 1 ? 32 : 16;  // rows that share words
template <int kBits>
inline constexpr int kCodeWords = kBits == 1 ? 32 : 16 * kBits;  // of them, in 32 columns

// The words of row `row` of the tile, in 16s, from its first column on.
template <int kBits>
inline const uint32_t* code_words(const CodeTile& tile, int row) {
  const int stored = tile.row_begin + row;
  return static_cast<const uint32_t*>(tile.payload) +
         static_cast<size_t>(stored / kCodeGroupRows<kBits>) *
             static_cast<size_t>(tile.columns / 32 * kCodeWords<kBits>) +
         static_cast<size_t>(tile.column_begin / 32 * kCodeWords<kBits>);
}

template <int kBits>
inline int code_row_tile(const CodeTile& tile, int row) {
  return (tile.row_begin + row) % kCodeGroupRows<kBits> / 16;
}

}  // namespace vkv::VKV_ISA
