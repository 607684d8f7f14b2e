// amx_functions.h: products in AMX tiles, by the CPU's or by plain loops that stand in for them.
// SPDX-License-Identifier: Apache-2.0
//
// A tile is 16 rows of 64 bytes; C += A B takes A as 16 rows of 64 bytes (or 32 bf16) of k, and B
// as 16 rows of four (two) k each for 16 columns.
//
// The sources behind this header are compiled with AVX-512, in a namespace for each kind of tiles,
// and include nothing that could leave an inline function for the linker to share between them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/tile_functions.h"

namespace vkv {

// fp32 values as sums of bf16: three hold all 24 bits.
inline constexpr int kSplitsMax = 3;

inline constexpr int kRowTiles = 6;      // that hold rows of A or C where A has two tiles
inline constexpr int kFewColumns = 128;  // of two tiles

struct AmxFunctions {
  // Of the calling thread: gives the first kRowTiles tiles so many rows, 1..16, and the others all
  // 16; and gives all tiles up. What has few rows takes less time in tiles of as many.
  void (*configure)(int rows);
  void (*release)();

  // As TileProducts::multiply_codes(), with tiles of 16 rows or of rows.count; of 16 where the tile
  // has more than kFewColumns columns. scratch: rows x columns of the tile in bytes, columns
  // rounded up to 64.
  void (*multiply_codes)(const CodeTile& tile, const ByteRows& rows, uint8_t* scratch,
                         int32_t* products, int product_stride);

  // Rows as B operands: split_rows_values() values of bf16 at `split`. k in 32s.
  void (*split_rows)(const float* rows, int row_count, int row_stride, int k, int splits,
                     uint16_t* split);
  // As TileProducts::multiply_halves(), with rows as split_rows() left them. The tile has rows and
  // columns in 32s; all have 16 rows. scratch: half_scratch_bytes().
  void (*multiply_halves)(const HalfTile& tile, const uint16_t* split, int row_count, int splits,
                          std::byte* scratch, float* products, int product_stride);
};

constexpr size_t split_rows_values(int row_count, int k, int splits) {
  return static_cast<size_t>((row_count + 15) / 16) * 16 * static_cast<size_t>(k * splits);
}

// A result of 64 stored rows, and these rows as two bf16 a value.
constexpr size_t half_scratch_bytes(int columns) {
  return 64 * 16 * sizeof(float) + size_t{64} * 2 * sizeof(uint16_t) * static_cast<size_t>(columns);
}

namespace amx {  // AVX-512 F, BW, DQ, VL, BF16, GFNI, and AMX with bytes and bf16
const AmxFunctions& amx_functions();
}
namespace amx_emulated {  // AVX-512 F, BW, DQ, VL, BF16, GFNI
const AmxFunctions& amx_functions();
}

}  // namespace vkv
