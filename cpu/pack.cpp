// pack.cpp: strips of codes -> the words of a packed matrix, in the order of code_position().
// SPDX-License-Identifier: Apache-2.0
//
// The inverse of unpack.cpp. Codes are moved as bytes, sixteen at a time: plane p of a byte is a
// code shifted left by bits * p, which stays in its byte.
#include <immintrin.h>

#include "cpu/strips.h"

namespace vkv::VKV_ISA {
namespace {

// Of `columns` columns and rows in 16 * kRowTiles.
template <int kBits>
struct Packing {
  static constexpr int kPlanes = 8 / kBits;
  static constexpr int kRowTiles = kBits == 1 ? 2 : 1;
  static constexpr int kWords = 4 * kRowTiles / kPlanes;  // of a lane and 32-column tile
  static constexpr int kGroupRows = 16 * kRowTiles;
};

// Register `reg` of a group: which rows and columns it holds.
constexpr int row_of_register(int reg) { return reg / 4 * 16 + reg % 2 * 8; }
constexpr int column_of_register(int reg) { return reg / 2 % 2 * 16; }

inline __m128i load_codes(const uint8_t* from) {
  return _mm_load_si128(reinterpret_cast<const __m128i*>(from));
}

inline void store_words(uint32_t* to, __m128i words) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), words);
}

// Four rows of four words; result[i] has word i of every row.
inline void transpose_4x4(__m128i (&rows)[4]) {
  const __m128i a = _mm_unpacklo_epi32(rows[0], rows[1]), b = _mm_unpackhi_epi32(rows[0], rows[1]);
  const __m128i c = _mm_unpacklo_epi32(rows[2], rows[3]), d = _mm_unpackhi_epi32(rows[2], rows[3]);
  rows[0] = _mm_unpacklo_epi64(a, c);
  rows[1] = _mm_unpackhi_epi64(a, c);
  rows[2] = _mm_unpacklo_epi64(b, d);
  rows[3] = _mm_unpackhi_epi64(b, d);
}

// Four rows of sixteen bytes; result[i] has bytes 4 i .. 4 i + 3 of every row, a byte of each row
// in a word.
inline void interleave_4x16(__m128i (&rows)[4]) {
  const __m128i a = _mm_unpacklo_epi8(rows[0], rows[1]), b = _mm_unpackhi_epi8(rows[0], rows[1]);
  const __m128i c = _mm_unpacklo_epi8(rows[2], rows[3]), d = _mm_unpackhi_epi8(rows[2], rows[3]);
  rows[0] = _mm_unpacklo_epi16(a, c);
  rows[1] = _mm_unpackhi_epi16(a, c);
  rows[2] = _mm_unpacklo_epi16(b, d);
  rows[3] = _mm_unpackhi_epi16(b, d);
}

// Columns are lanes: four adjacent lanes of a sample are a word already.
template <int kBits>
void pack_lane_columns_of(const uint8_t* codes, int lanes, int samples, uint32_t* words) {
  using P = Packing<kBits>;
  const size_t strip_bytes = static_cast<size_t>(samples) * kStripLanes;
  for (int sample = 0; sample < samples; sample += P::kGroupRows) {
    for (int lane = 0; lane < lanes; lane += 32) {
      const uint8_t* tile =
          codes + lane / kStripLanes * strip_bytes + static_cast<size_t>(sample) * kStripLanes;
#pragma GCC unroll 4
      for (int w = 0; w < P::kWords; ++w) {
        for (int g = 0; g < 8; g += 4) {
          __m128i rows[4];
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            rows[i] = _mm_setzero_si128();
#pragma GCC unroll 8
            for (int p = 0; p < P::kPlanes; ++p) {
              const int reg = w * P::kPlanes + p;
              const uint8_t* from = tile + column_of_register(reg) / kStripLanes * strip_bytes +
                                    (row_of_register(reg) + g + i) * kStripLanes;
              rows[i] = _mm_or_si128(rows[i], _mm_slli_epi32(load_codes(from), kBits * p));
            }
          }
          transpose_4x4(rows);
          for (int t = 0; t < 4; ++t) store_words(words + (w * 4 + t) * 8 + g, rows[t]);
        }
      }
      words += P::kWords * 32;
    }
  }
}

// Rows are lanes: four adjacent samples of a lane make a word.
template <int kBits>
void pack_lane_rows_of(const uint8_t* codes, int lanes, int samples, uint32_t* words) {
  using P = Packing<kBits>;
  const size_t strip_bytes = static_cast<size_t>(samples) * kStripLanes;
  for (int lane = 0; lane < lanes; lane += P::kGroupRows) {
    for (int sample = 0; sample < samples; sample += 32) {
      const uint8_t* tile =
          codes + lane / kStripLanes * strip_bytes + static_cast<size_t>(sample) * kStripLanes;
      for (int t = 0; t < 4; ++t) {
        // [w][lanes 0-3, 4-7 of each eight]
        __m128i sums[P::kWords][2];
        for (auto& sum : sums) sum[0] = sum[1] = _mm_setzero_si128();
#pragma GCC unroll 2
        for (int row_tile = 0; row_tile < P::kRowTiles; ++row_tile) {
#pragma GCC unroll 2
          for (int half = 0; half < 2; ++half) {
            __m128i quads[4];  // lanes 0-3, 4-7, 8-11, 12-15
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i)
              quads[i] =
                  load_codes(tile + row_tile * strip_bytes + (half * 16 + t * 4 + i) * kStripLanes);
            interleave_4x16(quads);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
              const int reg = row_tile * 4 + half * 2 + i / 2;
              __m128i& sum = sums[reg / P::kPlanes][i % 2];
              sum = _mm_or_si128(sum, _mm_slli_epi32(quads[i], kBits * (reg % P::kPlanes)));
            }
          }
        }
        for (int w = 0; w < P::kWords; ++w)
          for (int i = 0; i < 2; ++i) store_words(words + (w * 4 + t) * 8 + i * 4, sums[w][i]);
      }
      words += P::kWords * 32;
    }
  }
}

}  // namespace

void pack_lane_columns(int bits, const uint8_t* codes, int lanes, int samples, uint32_t* words) {
  switch (bits) {
    case 8:
      return pack_lane_columns_of<8>(codes, lanes, samples, words);
    case 4:
      return pack_lane_columns_of<4>(codes, lanes, samples, words);
    case 2:
      return pack_lane_columns_of<2>(codes, lanes, samples, words);
    default:
      return pack_lane_columns_of<1>(codes, lanes, samples, words);
  }
}

void pack_lane_rows(int bits, const uint8_t* codes, int lanes, int samples, uint32_t* words) {
  switch (bits) {
    case 8:
      return pack_lane_rows_of<8>(codes, lanes, samples, words);
    case 4:
      return pack_lane_rows_of<4>(codes, lanes, samples, words);
    case 2:
      return pack_lane_rows_of<2>(codes, lanes, samples, words);
    default:
      return pack_lane_rows_of<1>(codes, lanes, samples, words);
  }
}

}  // namespace vkv::VKV_ISA
