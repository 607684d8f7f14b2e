// amx_codes.cpp: unpacks columns of tiles while those before are multiplied.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/amx_codes.h"

#include <immintrin.h>

#include "cpu/ahead.h"
#include "cpu/code_rows.h"
#include VKV_TILES

namespace vkv::VKV_ISA {
namespace {

constexpr int kTileBytes = 1024;
constexpr int kPairRows = 32;  // of the stored matrix: two tiles of columns

// Eight rows of B: 16 stored rows' codes in 32 columns. words: the 32 columns' first.
template <int kBits>
inline void unpack_columns(const uint32_t* words, int row_tile, uint8_t* target) {
  for (int half = 0; half < 2; ++half)
    for (int t = 0; t < 4; ++t)
      _mm512_store_si512(target + (half * 4 + t) * 64, code_rows<kBits>(words, row_tile, half, t));
}

// 16 stored rows into a column of B tiles, [k_tiles][kTileBytes].
template <int kBits>
inline void unpack_tiles(const CodeTile& tile, int row, int k_tiles, uint8_t* target) {
  const int columns = tile.column_end - tile.column_begin;
  const uint32_t* words = code_words<kBits>(tile, row);
  const int row_tile = code_row_tile<kBits>(tile, row);
  uint8_t* const end = target + k_tiles * kTileBytes;
  for (int column = 0; column < columns; column += 32) {
    unpack_columns<kBits>(words, row_tile, target);
    words += kCodeWords<kBits>;
    target += kTileBytes / 2;
  }
  if (target < end) __builtin_memset(target, 0, kTileBytes / 2);
}

// The whole tile, as unpack_tiles() leaves 16 rows.
template <int kBits>
void unpack_all(const CodeTile& tile, int k_tiles, uint8_t* target) {
  const int n = tile.row_end - tile.row_begin;
  for (int row = 0; row < n; row += kPairRows) {
    step(tile.ahead);
    unpack_tiles<kBits>(tile, row, k_tiles, target);
    unpack_tiles<kBits>(tile, row + 16, k_tiles, target + k_tiles * kTileBytes);
    target += 2 * k_tiles * kTileBytes;
  }
}

template <bool kSigned, int kC, int kA, int kB>
inline void tile_dot() {
  if constexpr (kSigned)
    tile_dot_signed<kC, kA, kB>();
  else
    tile_dot_bytes<kC, kA, kB>();
}

// Two columns of tiles at `b` against rows in tiles 4 .. 4 + kKTiles - 1; sums in tiles kC, kC + 1,
// by turns so that neither waits for its own last product.
template <bool kSigned, int kKTiles, int kC>
inline void multiply_columns(const uint8_t* b) {
  constexpr int kB = kKTiles > 2 ? 2 : 6;
  const uint8_t* const right = b + kKTiles * kTileBytes;
  tile_zero<kC>();
  tile_zero<kC + 1>();
  tile_load<kB>(b, 64);
  tile_dot<kSigned, kC, 4, kB>();
  tile_load<kB + 1>(right, 64);
  tile_dot<kSigned, kC + 1, 4, kB + 1>();
  if constexpr (kKTiles > 1) {
    tile_load<kB>(b + kTileBytes, 64);
    tile_dot<kSigned, kC, 5, kB>();
    tile_load<kB + 1>(right + kTileBytes, 64);
    tile_dot<kSigned, kC + 1, 5, kB + 1>();
  }
  if constexpr (kKTiles > 2) {
    tile_load<kB>(b + 2 * kTileBytes, 64);
    tile_dot<kSigned, kC, 6, kB>();
    tile_load<kB + 1>(right + 2 * kTileBytes, 64);
    tile_dot<kSigned, kC + 1, 6, kB + 1>();
  }
  if constexpr (kKTiles > 3) {
    tile_load<kB>(b + 3 * kTileBytes, 64);
    tile_dot<kSigned, kC, 7, kB>();
    tile_load<kB + 1>(right + 3 * kTileBytes, 64);
    tile_dot<kSigned, kC + 1, 7, kB + 1>();
  }
}

template <int kBits, bool kSigned, int kKTiles>
void multiply_few(const CodeTile& tile, const uint8_t* rows, int row_stride, uint8_t* scratch,
                  int32_t* products, int product_stride) {
  const size_t stride = static_cast<size_t>(row_stride);
  tile_load<4>(rows, stride);
  if constexpr (kKTiles > 1) tile_load<5>(rows + 64, stride);
  if constexpr (kKTiles > 2) tile_load<6>(rows + 128, stride);
  if constexpr (kKTiles > 3) tile_load<7>(rows + 192, stride);
  // A load of a tile waits until the stores that it reads have left the core, and they leave after
  // all older work is done: so a pair of columns is multiplied two pairs after it was unpacked.
  constexpr int kPairBytes = 2 * kKTiles * kTileBytes, kLead = 2;
  const size_t product_bytes = static_cast<size_t>(product_stride) * sizeof(int32_t);
  const int n = tile.row_end - tile.row_begin;
  const auto unpack_pair = [&](int row) {
    uint8_t* const target = scratch + row / kPairRows * kPairBytes;
    unpack_tiles<kBits>(tile, row, kKTiles, target);
    unpack_tiles<kBits>(tile, row + 16, kKTiles, target + kPairBytes / 2);
  };
  for (int row = 0; row < n && row < kLead * kPairRows; row += kPairRows) unpack_pair(row);
  for (int row = 0; row < n; row += kPairRows) {
    step(tile.ahead);
    if (row + kLead * kPairRows < n) unpack_pair(row + kLead * kPairRows);
    const uint8_t* const b = scratch + row / kPairRows * kPairBytes;
    if (kKTiles > 2 || row / kPairRows % 2 == 0) {
      multiply_columns<kSigned, kKTiles, 0>(b);
      tile_store<0>(products + row, product_bytes);
      tile_store<1>(products + row + 16, product_bytes);
    } else {
      constexpr int kC = kKTiles > 2 ? 0 : 2;
      multiply_columns<kSigned, kKTiles, kC>(b);
      tile_store<kC>(products + row, product_bytes);
      tile_store<kC + 1>(products + row + 16, product_bytes);
    }
  }
}

// Any number of rows: 32 against 32 columns at a time.
template <int kBits, bool kSigned>
void multiply_many(const CodeTile& tile, const uint8_t* rows, int row_count, int row_stride,
                   uint8_t* scratch, int32_t* products, int product_stride) {
  const int n = tile.row_end - tile.row_begin;
  const int k_tiles = (tile.column_end - tile.column_begin + 63) / 64;
  const int pair_bytes = 2 * k_tiles * kTileBytes;
  unpack_all<kBits>(tile, k_tiles, scratch);
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
        tile_dot<kSigned, 0, 4, 6>();
        tile_dot<kSigned, 1, 4, 7>();
        if (!two) continue;
        tile_load<5>(upper + 16 * stride + k * 64, stride);
        tile_dot<kSigned, 2, 5, 6>();
        tile_dot<kSigned, 3, 5, 7>();
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

template <int kBits, bool kSigned>
void multiply_codes_of(const CodeTile& tile, const uint8_t* rows, int row_count, int row_stride,
                       uint8_t* scratch, int32_t* products, int product_stride) {
  const int k_tiles = (tile.column_end - tile.column_begin + 63) / 64;
  if (row_count > 16)
    return multiply_many<kBits, kSigned>(tile, rows, row_count, row_stride, scratch, products,
                                         product_stride);
  const auto few = k_tiles == 1   ? multiply_few<kBits, kSigned, 1>
                   : k_tiles == 2 ? multiply_few<kBits, kSigned, 2>
                   : k_tiles == 3 ? multiply_few<kBits, kSigned, 3>
                                  : multiply_few<kBits, kSigned, 4>;
  few(tile, rows, row_stride, scratch, products, product_stride);
}

template <bool kSigned>
constexpr auto multiplier_of(int bits) {
  return bits == 8   ? multiply_codes_of<8, kSigned>
         : bits == 4 ? multiply_codes_of<4, kSigned>
         : bits == 2 ? multiply_codes_of<2, kSigned>
                     : multiply_codes_of<1, kSigned>;
}

}  // namespace

void multiply_codes(const CodeTile& tile, const ByteRows& rows, uint8_t* scratch, int32_t* products,
                    int product_stride) {
  const auto multiply =
      rows.is_signed ? multiplier_of<true>(tile.bits) : multiplier_of<false>(tile.bits);
  multiply(tile, rows.bytes, rows.count, rows.stride, scratch, products, product_stride);
}

}  // namespace vkv::VKV_ISA
