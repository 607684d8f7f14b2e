// unpack.cpp: stored tiles -> panels that a matrix product can read.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/unpack.h"

#include "cpu/ahead.h"
#include "cpu/lanes.h"
#include "cpu/transpose.h"

namespace vkv::VKV_ISA {
namespace {

// Calls put(target, row, column, quad) for every eight rows and four columns of the tile, where
// lane g of `quad` has, as four bytes, the codes of row + g in column .. column + 3. Row and column
// are constants once the loops are unrolled; `target` is where a group of rows and 32 columns
// begins in panels whose rows are kRowStep values apart. The order of words is that of
// code_position() in runtime/base/block_format.h.
template <int kBits, int kRowStep, class Value, class Put>
inline void for_each_quad(const CodeTile& tile, Value* panels, const Put& put) {
  constexpr unsigned kPlanes = 8 / kBits;
  constexpr unsigned kRowTiles = kBits == 1 ? 2 : 1;
  constexpr unsigned kGroupRows = 16 * kRowTiles;
  constexpr unsigned kWords = 4 * kRowTiles / kPlanes;
  constexpr uint32_t kMask = 0x01010101u * ((1u << kBits) - 1);

  const unsigned rows = static_cast<unsigned>(tile.row_end - tile.row_begin);
  const unsigned columns = static_cast<unsigned>(tile.column_end - tile.column_begin);
  const size_t group_words = static_cast<size_t>(tile.columns) * kWords;  // 32 a 32 columns
  const uint32_t* group = static_cast<const uint32_t*>(tile.payload) +
                          static_cast<unsigned>(tile.row_begin) / kGroupRows * group_words +
                          static_cast<unsigned>(tile.column_begin) * kWords;
  for (unsigned row = 0; row < rows; row += kGroupRows, group += group_words) {
    step(tile.ahead);
    Value* target =
        panels + size_t{row / kPanelWidth} * columns * kPanelWidth + row % kPanelWidth * kRowStep;
    const uint32_t* words = group;
    for (unsigned column = 0; column < columns; column += 32) {
#pragma GCC unroll 4
      for (unsigned w = 0; w < kWords; ++w) {
#pragma GCC unroll 4
        for (unsigned t = 0; t < 4; ++t) {
          const Words8 word = load<Words8>(words + (w * 4 + t) * 8);
#pragma GCC unroll 8
          for (unsigned p = 0; p < kPlanes; ++p) {
            const unsigned reg = w * kPlanes + p;
            const unsigned row_tile = reg / 4, column_half = reg / 2 % 2, row_half = reg % 2;
            put(target, row_tile * 16 + row_half * 8, column_half * 16 + t * 4,
                Words8(word >> (kBits * p) & kMask));
          }
        }
      }
      words += kWords * 32;
      target += 32 * kPanelWidth;
    }
  }
}

template <int kBits>
void unpack_bytes_of(const CodeTile& tile, uint8_t* panels) {
  constexpr uint32_t kFlip = kBits == 8 ? 0x80808080u : 0u;  // code - 128 as a signed byte
  for_each_quad<kBits, 4>(tile, panels,
                          [](uint8_t* target, unsigned row, unsigned column, Words8 quad) {
                            store(target + column * kPanelWidth + row * 4, quad ^ kFlip);
                          });
}

template <int kBits>
void unpack_floats_of(const CodeTile& tile, float* panels) {
  for_each_quad<kBits, 1>(
      tile, panels, [](float* target, unsigned row, unsigned column, Words8 quad) {
        for (unsigned i = 0; i < 4; ++i)
          store(target + (column + i) * kPanelWidth + row,
                __builtin_convertvector(__builtin_convertvector(quad >> (8 * i) & 0xffu, Ints8),
                                        Floats8));
      });
}

template <bool kBfloat>
void transpose_halves_of(const HalfTile& tile, float* panels) {
  const int padded_rows = (tile.row_count + 31) / 32 * 32;
  const size_t panel_floats = static_cast<size_t>(tile.padded_columns) * kPanelWidth;
  for (int row = 0; row < padded_rows; row += 8) {
    float* target = panels + row / kPanelWidth * panel_floats + row % kPanelWidth;
    for (int column = 0; column < tile.column_count; column += 8) {
      __m128i lanes[8];
      for (int g = 0; g < 8; ++g)
        lanes[g] = row + g < tile.row_count
                       ? load_halves(tile.values + (row + g) * tile.row_stride + column)
                       : _mm_setzero_si128();
      transpose_8x8(lanes);
      for (int i = 0; i < 8; ++i) {
        _mm256_storeu_ps(target + (column + i) * kPanelWidth, widen<kBfloat>(lanes[i]));
      }
    }
    for (int column = tile.column_count; column < tile.padded_columns; ++column)
      _mm256_storeu_ps(target + column * kPanelWidth, _mm256_setzero_ps());
  }
}

template <bool kBfloat>
void convert_halves_of(const HalfTile& tile, float* panels) {
  const int padded_rows = (tile.row_count + 31) / 32 * 32;
  const size_t panel_floats = static_cast<size_t>(padded_rows) * kPanelWidth;
  for (int column = 0; column < tile.padded_columns; column += 8) {
    float* target = panels + column / kPanelWidth * panel_floats + column % kPanelWidth;
    for (int row = 0; row < padded_rows; ++row) {
      const bool stored = row < tile.row_count && column < tile.column_count;
      _mm256_storeu_ps(
          target + row * kPanelWidth,
          stored ? widen<kBfloat>(load_halves(tile.values + row * tile.row_stride + column))
                 : _mm256_setzero_ps());
    }
  }
}

}  // namespace

void floats_from_halves(const uint16_t* halves, int count, float* values) {
  for (int i = 0; i < count; i += 8)
    _mm256_storeu_ps(values + i, widen<false>(load_halves(halves + i)));
}

void unpack_bytes(const CodeTile& tile, uint8_t* panels) {
  switch (tile.bits) {
    case 8:
      return unpack_bytes_of<8>(tile, panels);
    case 4:
      return unpack_bytes_of<4>(tile, panels);
    case 2:
      return unpack_bytes_of<2>(tile, panels);
    default:
      return unpack_bytes_of<1>(tile, panels);
  }
}

void unpack_floats(const CodeTile& tile, float* panels) {
  switch (tile.bits) {
    case 8:
      return unpack_floats_of<8>(tile, panels);
    case 4:
      return unpack_floats_of<4>(tile, panels);
    case 2:
      return unpack_floats_of<2>(tile, panels);
    default:
      return unpack_floats_of<1>(tile, panels);
  }
}

void transpose_halves(const HalfTile& tile, float* panels) {
  return tile.bfloat ? transpose_halves_of<true>(tile, panels)
                     : transpose_halves_of<false>(tile, panels);
}

void convert_halves(const HalfTile& tile, float* panels) {
  return tile.bfloat ? convert_halves_of<true>(tile, panels)
                     : convert_halves_of<false>(tile, panels);
}

}  // namespace vkv::VKV_ISA
