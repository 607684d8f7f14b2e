// amx_halves.cpp: stored rows are A as they lie, so that nothing of K and V is moved.
// SPDX-License-Identifier: Apache-2.0
//
// C [16 stored rows][16 rows] comes out transposed. bf16 is read in place; fp16 becomes two bf16
// whose sum it is: 8 of its 11 bits, and the rest.
#include "cpu/amx_halves.h"

#include <immintrin.h>

#include "cpu/ahead.h"
#include "cpu/amx_functions.h"
#include VKV_TILES

namespace vkv::VKV_ISA {
namespace {

constexpr int kStripRows = 64;        // stored rows that are multiplied together
constexpr int kTileValues = 16 * 32;  // of bf16

// Lane i of the result's row j is lane j of row i.
inline void transpose_16x16(__m512 (&rows)[16]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    const auto pair = [&](int at) { return _mm512_castps_pd(a[4 * i + at]); };
    b[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pair(0), pair(2)));
    b[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pair(0), pair(2)));
    b[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pair(1), pair(3)));
    b[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pair(1), pair(3)));
  }
  for (int i = 0; i < 4; ++i) {  // quarters of b[i], b[4 + i], b[8 + i], b[12 + i]
    const __m512 even_low = _mm512_shuffle_f32x4(b[i], b[4 + i], 0x88);
    const __m512 odd_low = _mm512_shuffle_f32x4(b[i], b[4 + i], 0xdd);
    const __m512 even_high = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x88);
    const __m512 odd_high = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xdd);
    rows[i] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    rows[4 + i] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    rows[8 + i] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    rows[12 + i] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
}

inline __m512i upper_halves() { return _mm512_set1_epi32(static_cast<int>(0xffff0000u)); }

inline __m512 truncated(__m512 x) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), upper_halves()));
}

// 32 floats in order, rounded to nearest even.
inline __m512i bfloats_of(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// 64 rows of fp16 from `source` on: bf16 parts [2][kStripRows][columns].
void split_strip(const HalfTile& tile, int row_begin, int row_count, uint16_t* parts) {
  const size_t columns = static_cast<size_t>(tile.column_count);
  uint16_t* const rest = parts + kStripRows * columns;
  for (int row = 0; row < row_count; ++row) {
    const uint16_t* const source =
        tile.values + static_cast<size_t>(row_begin + row) * tile.row_stride;
    for (size_t column = 0; column < columns; column += 32) {
      const auto floats = [&](size_t at) {
        return _mm512_cvtph_ps(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + column + at)));
      };
      const __m512 low = floats(0), high = floats(16);
      const __m512 upper_low = truncated(low), upper_high = truncated(high);
      const size_t target = static_cast<size_t>(row) * columns + column;
      _mm512_storeu_si512(parts + target, bfloats_of(upper_low, upper_high));
      _mm512_storeu_si512(rest + target, bfloats_of(_mm512_sub_ps(low, upper_low),
                                                    _mm512_sub_ps(high, upper_high)));
    }
  }
}

// One B tile against a strip's 32 columns at `a`, in tiles 0 .. kTiles - 1.
template <int kTiles>
inline void multiply_strip(const uint16_t* a, size_t row_bytes, const uint16_t* b) {
  const auto at = [&](int tile) {
    return reinterpret_cast<const std::byte*>(a) + static_cast<size_t>(tile) * 16 * row_bytes;
  };
  tile_load<6>(b, 64);
  tile_load<4>(at(0), row_bytes);
  tile_dot_bfloats<0, 4, 6>();
  tile_load<5>(at(1), row_bytes);
  tile_dot_bfloats<1, 5, 6>();
  if constexpr (kTiles > 2) {
    tile_load<4>(at(2), row_bytes);
    tile_dot_bfloats<2, 4, 6>();
    tile_load<5>(at(3), row_bytes);
    tile_dot_bfloats<3, 5, 6>();
  }
}

// C of a strip to `sums` [16 * kTiles][16], by all splits, small ones first.
template <int kTiles>
void sum_strip(const uint16_t* parts, int part_count, size_t part_values, size_t row_bytes,
               int columns, const uint16_t* split, int splits, Ahead* ahead, float* sums) {
  tile_zero<0>();
  tile_zero<1>();
  if constexpr (kTiles > 2) {
    tile_zero<2>();
    tile_zero<3>();
  }
  for (int column = 0; column < columns; column += 32) {
    const uint16_t* const b = split + static_cast<size_t>(column / 32 * splits) * kTileValues;
    for (int i = splits - 1; i >= 0; --i) {
      step(ahead);
      for (int part = part_count - 1; part >= 0; --part)
        // The rest of a value times the last split is below what fp32 holds.
        if (part == 0 || i + 1 < kSplitsMax)
          multiply_strip<kTiles>(parts + static_cast<size_t>(part) * part_values + column,
                                 row_bytes, b + i * kTileValues);
    }
  }
  tile_store<0>(sums, 64);
  tile_store<1>(sums + 256, 64);
  if constexpr (kTiles > 2) {
    tile_store<2>(sums + 512, 64);
    tile_store<3>(sums + 768, 64);
  }
}

void store_transposed(const float* sums, int row_count, float* products, int product_stride) {
  __m512 rows[16];
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_loadu_ps(sums + 16 * i);
  transpose_16x16(rows);
  for (int row = 0; row < row_count; ++row)
    _mm512_storeu_ps(products + static_cast<size_t>(row) * product_stride, rows[row]);
}

}  // namespace

void split_rows(const float* rows, int row_count, int row_stride, int k, int splits,
                uint16_t* split) {
  // [16 rows][k / 32][splits] B tiles.
  for (int first = 0; first < row_count; first += 16) {
    const int count = row_count - first < 16 ? row_count - first : 16;
    for (int column = 0; column < k; column += 32) {
      __m512 left[16][2];
      for (int row = 0; row < 16; ++row)
        for (int half = 0; half < 2; ++half)
          left[row][half] =
              row < count ? _mm512_loadu_ps(rows + static_cast<size_t>(first + row) * row_stride +
                                            column + 16 * half)
                          : _mm512_setzero_ps();
      for (int i = 0; i < splits; ++i, split += kTileValues) {
        __m512 pairs[16];
        for (int row = 0; row < 16; ++row) {
          __m512(&x)[2] = left[row];
          const bool last = i + 1 == splits;
          const __m512 part[2] = {last ? x[0] : truncated(x[0]), last ? x[1] : truncated(x[1])};
          pairs[row] = _mm512_castsi512_ps(bfloats_of(part[0], part[1]));
          for (int half = 0; half < 2; ++half) x[half] = _mm512_sub_ps(x[half], part[half]);
        }
        transpose_16x16(pairs);
        for (int row = 0; row < 16; ++row) _mm512_storeu_ps(split + 32 * row, pairs[row]);
      }
    }
  }
}

void multiply_halves(const HalfTile& tile, const uint16_t* split, int row_count, int splits,
                     std::byte* scratch, float* products, int product_stride) {
  float* const sums = reinterpret_cast<float*>(scratch);
  uint16_t* const parts = reinterpret_cast<uint16_t*>(scratch + kStripRows * 16 * sizeof(float));
  const int columns = tile.column_count;
  const size_t part_values = size_t{kStripRows} * static_cast<size_t>(columns);
  for (int n = 0; n < tile.row_count; n += kStripRows) {
    const int count = tile.row_count - n < kStripRows ? tile.row_count - n : kStripRows;
    const uint16_t* const stored = tile.values + static_cast<size_t>(n) * tile.row_stride;
    if (!tile.bfloat) split_strip(tile, n, count, parts);
    const uint16_t* const a = tile.bfloat ? stored : parts;
    const size_t row_bytes =
        (tile.bfloat ? tile.row_stride : static_cast<size_t>(columns)) * sizeof(uint16_t);
    const auto sum = count == kStripRows ? sum_strip<4> : sum_strip<2>;
    for (int first = 0; first < row_count; first += 16) {
      const int rows = row_count - first < 16 ? row_count - first : 16;
      sum(a, tile.bfloat ? 1 : 2, part_values, row_bytes, columns,
          split + static_cast<size_t>(first * columns * splits), splits, tile.ahead, sums);
      for (int strip = 0; strip < count; strip += 16)
        store_transposed(sums + 16 * strip, rows,
                         products + static_cast<size_t>(first) * product_stride + n + strip,
                         product_stride);
    }
  }
}

}  // namespace vkv::VKV_ISA
