// amx_codes.cpp: unpacks a column of tiles while the one before is multiplied.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/amx_codes.h"

#include <immintrin.h>

#include "cpu/ahead.h"
#include VKV_TILES

namespace vkv::VKV_ISA {
namespace {

constexpr int kTileBytes = 1024;
constexpr int kPairRows = 32;  // of the stored matrix: two tiles of columns

// Eight rows of B: 16 stored rows' codes in 32 columns. words: the 32 columns' first.
template <int kBits>
inline void unpack_columns(const uint32_t* words, int row_tile, uint8_t* target) {
  const auto group = [&](int index) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(words + index * 8));
  };
  constexpr int kMask = (1 << kBits) - 1;
  const __m512i mask = _mm512_set1_epi8(kMask);
  for (int half = 0; half < 2; ++half) {
    for (int t = 0; t < 4; ++t) {
      uint8_t* const row = target + (half * 4 + t) * 64;
      if constexpr (kBits == 8) {
        const __m512i codes = _mm512_inserti64x4(_mm512_castsi256_si512(group(half * 8 + t)),
                                                 group(half * 8 + 4 + t), 1);
        _mm512_store_si512(row, _mm512_xor_si512(codes, _mm512_set1_epi8(-128)));
      } else {
        // Rows 0 to 7 and 8 to 15 are neighbouring planes of the same words.
        constexpr int kHalfWords = kBits == 4 ? 4 : 0;
        const int plane = kBits == 4 ? 0 : (row_tile * 4 + half * 2) * kBits;
        const __m512i shifts =
            _mm512_inserti64x4(_mm512_set1_epi32(plane), _mm256_set1_epi32(plane + kBits), 1);
        const __m512i words_twice = _mm512_broadcast_i64x4(group(half * kHalfWords + t));
        _mm512_store_si512(row, _mm512_and_si512(_mm512_srlv_epi32(words_twice, shifts), mask));
      }
    }
  }
}

// 16 stored rows into a column of B tiles, [k_tiles][kTileBytes].
template <int kBits>
inline void unpack_tiles(const CodeTile& tile, int row, int k_tiles, uint8_t* target) {
  constexpr int kGroupRows = kBits == 1 ? 32 : 16;
  constexpr int kWords = kBits == 1 ? 32 : 16 * kBits;  // of 32 columns of a group of rows
  const int columns = tile.column_end - tile.column_begin;
  const size_t group_words = static_cast<size_t>(tile.columns / 32) * kWords;
  const int stored_row = tile.row_begin + row;
  const uint32_t* words = static_cast<const uint32_t*>(tile.payload) +
                          static_cast<size_t>(stored_row / kGroupRows) * group_words +
                          static_cast<size_t>(tile.column_begin / 32) * kWords;
  uint8_t* const end = target + k_tiles * kTileBytes;
  for (int column = 0; column < columns; column += 32, words += kWords, target += kTileBytes / 2)
    unpack_columns<kBits>(words, stored_row % kGroupRows / 16, target);
  if (target < end) __builtin_memset(target, 0, kTileBytes / 2);
}

// Up to 16 rows, in tiles 4 .. 4 + kKTiles - 1, against a column of tiles; the sum in tile kC.
template <int kKTiles, int kC>
inline void multiply_column(const uint8_t* b, int32_t* products, size_t product_bytes) {
  tile_zero<kC>();
  tile_load<2>(b, 64);
  tile_dot_bytes<kC, 4, 2>();
  if constexpr (kKTiles > 1) {
    tile_load<3>(b + kTileBytes, 64);
    tile_dot_bytes<kC, 5, 3>();
  }
  if constexpr (kKTiles > 2) {
    tile_load<2>(b + 2 * kTileBytes, 64);
    tile_dot_bytes<kC, 6, 2>();
  }
  if constexpr (kKTiles > 3) {
    tile_load<3>(b + 3 * kTileBytes, 64);
    tile_dot_bytes<kC, 7, 3>();
  }
  tile_store<kC>(products, product_bytes);
}

template <int kBits, int kKTiles>
void multiply_few(const CodeTile& tile, const uint8_t* rows, int row_stride, uint8_t* scratch,
                  int32_t* products, int product_stride) {
  const size_t stride = static_cast<size_t>(row_stride);
  tile_load<4>(rows, stride);
  if constexpr (kKTiles > 1) tile_load<5>(rows + 64, stride);
  if constexpr (kKTiles > 2) tile_load<6>(rows + 128, stride);
  if constexpr (kKTiles > 3) tile_load<7>(rows + 192, stride);
  // A column is multiplied one turn after it was unpacked, so that loads do not wait for stores.
  // Two columns of 128 k are 4 KiB: the one that is written and the one that is read lie at
  // different offsets of a page, which a core compares first.
  constexpr int kColumnBytes = kKTiles * kTileBytes;
  const size_t product_bytes = static_cast<size_t>(product_stride) * sizeof(int32_t);
  const int n = tile.row_end - tile.row_begin;
  unpack_tiles<kBits>(tile, 0, kKTiles, scratch);
  for (int row = 0; row < n; row += 32, scratch += 2 * kColumnBytes) {
    step(tile.ahead);
    unpack_tiles<kBits>(tile, row + 16, kKTiles, scratch + kColumnBytes);
    multiply_column<kKTiles, 0>(scratch, products + row, product_bytes);
    if (row + 32 < n) unpack_tiles<kBits>(tile, row + 32, kKTiles, scratch + 2 * kColumnBytes);
    multiply_column<kKTiles, 1>(scratch + kColumnBytes, products + row + 16, product_bytes);
  }
}

// Any number of rows: 32 against 32 columns at a time.
template <int kBits>
void multiply_many(const CodeTile& tile, const uint8_t* rows, int row_count, int row_stride,
                   uint8_t* scratch, int32_t* products, int product_stride) {
  const int n = tile.row_end - tile.row_begin;
  const int k_tiles = (tile.column_end - tile.column_begin + 63) / 64;
  const int pair_bytes = 2 * k_tiles * kTileBytes;
  for (int row = 0; row < n; row += 16)
    unpack_tiles<kBits>(tile, row, k_tiles, scratch + row / 16 * (pair_bytes / 2));
  const size_t stride = static_cast<size_t>(row_stride);
  const size_t product_bytes = static_cast<size_t>(product_stride) * sizeof(int32_t);
  for (int m = 0; m < row_count; m += 32) {
    const uint8_t* const upper = rows + static_cast<size_t>(m) * stride;
    int32_t* const target = products + static_cast<size_t>(m) * product_stride;
    const bool two = m + 16 < row_count;
    for (int row = 0; row < n; row += kPairRows) {
      const uint8_t* left = scratch + row / kPairRows * pair_bytes;
      const uint8_t* right = left + k_tiles * kTileBytes;
      tile_zero<0>();
      tile_zero<1>();
      if (two) {
        tile_zero<2>();
        tile_zero<3>();
      }
      for (int k = 0; k < k_tiles; ++k) {
        tile_load<6>(left + k * kTileBytes, 64);
        tile_load<7>(right + k * kTileBytes, 64);
        tile_load<4>(upper + k * 64, stride);
        tile_dot_bytes<0, 4, 6>();
        tile_dot_bytes<1, 4, 7>();
        if (!two) continue;
        tile_load<5>(upper + 16 * stride + k * 64, stride);
        tile_dot_bytes<2, 5, 6>();
        tile_dot_bytes<3, 5, 7>();
      }
      tile_store<0>(target + row, product_bytes);
      tile_store<1>(target + row + 16, product_bytes);
      if (!two) continue;
      int32_t* const lower = target + size_t{16} * product_stride;
      tile_store<2>(lower + row, product_bytes);
      tile_store<3>(lower + row + 16, product_bytes);
    }
  }
}

template <int kBits>
void multiply_codes_of(const CodeTile& tile, const uint8_t* rows, int row_count, int row_stride,
                       uint8_t* scratch, int32_t* products, int product_stride) {
  const int k_tiles = (tile.column_end - tile.column_begin + 63) / 64;
  if (row_count > 16)
    return multiply_many<kBits>(tile, rows, row_count, row_stride, scratch, products,
                                product_stride);
  const auto few = k_tiles == 1   ? multiply_few<kBits, 1>
                   : k_tiles == 2 ? multiply_few<kBits, 2>
                   : k_tiles == 3 ? multiply_few<kBits, 3>
                                  : multiply_few<kBits, 4>;
  few(tile, rows, row_stride, scratch, products, product_stride);
}

}  // namespace

void multiply_codes(const CodeTile& tile, const uint8_t* rows, int row_count, int row_stride,
                    uint8_t* scratch, int32_t* products, int product_stride) {
  const auto multiply = tile.bits == 8   ? multiply_codes_of<8>
                        : tile.bits == 4 ? multiply_codes_of<4>
                        : tile.bits == 2 ? multiply_codes_of<2>
                                         : multiply_codes_of<1>;
  multiply(tile, rows, row_count, row_stride, scratch, products, product_stride);
}

}  // namespace vkv::VKV_ISA
