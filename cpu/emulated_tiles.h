// emulated_tiles.h: amx_tiles.h by plain loops, for tests on CPUs without AMX.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/tile_config.h"

namespace vkv::VKV_ISA {

struct Tile {
  uint8_t bytes[16][64];
};

// The calling thread's. No rows at all: what real tiles would fault on shows here too.
struct Tiles {
  Tile tile[8];
  uint8_t rows[8];
};

inline Tiles& tiles() {
  static thread_local Tiles all;
  return all;
}

inline Tile& tile_of(int index) {
  if (tiles().rows[index] == 0) __builtin_trap();
  return tiles().tile[index];
}

inline void tile_configure(const TileConfig& config) {
  std::memset(&tiles(), 0, sizeof(Tiles));
  std::memcpy(tiles().rows, config.rows, sizeof(Tiles::rows));
}

inline void tile_release() { std::memset(tiles().rows, 0, sizeof(Tiles::rows)); }

template <int kTile>
inline void tile_zero() {
  std::memset(&tile_of(kTile), 0, sizeof(Tile));
}

template <int kTile>
inline void tile_load(const void* from, size_t row_bytes) {
  Tile& tile = tile_of(kTile);
  for (size_t row = 0; row < tiles().rows[kTile]; ++row)
    std::memcpy(tile.bytes[row], static_cast<const char*>(from) + row * row_bytes, 64);
}

template <int kTile>
inline void tile_store(void* to, size_t row_bytes) {
  const Tile& tile = tile_of(kTile);
  for (size_t row = 0; row < tiles().rows[kTile]; ++row)
    std::memcpy(static_cast<char*>(to) + row * row_bytes, tile.bytes[row], 64);
}

// Left: the type of a's bytes.
template <class Left, int kC, int kA, int kB>
inline void emulated_dot_bytes() {
  int32_t c[16][16];
  std::memcpy(c, &tile_of(kC), sizeof(c));
  const Tile &a = tile_of(kA), &b = tile_of(kB);
  if (tiles().rows[kA] != tiles().rows[kC] || tiles().rows[kB] != 16) __builtin_trap();
  for (int m = 0; m < tiles().rows[kC]; ++m)
    for (int k = 0; k < 64; ++k)
      for (int n = 0; n < 16; ++n)
        c[m][n] +=
            static_cast<Left>(a.bytes[m][k]) * static_cast<int8_t>(b.bytes[k / 4][4 * n + k % 4]);
  std::memcpy(&tile_of(kC), c, sizeof(c));
}

template <int kC, int kA, int kB>
inline void tile_dot_bytes() {
  emulated_dot_bytes<uint8_t, kC, kA, kB>();
}

template <int kC, int kA, int kB>
inline void tile_dot_signed() {
  emulated_dot_bytes<int8_t, kC, kA, kB>();
}

inline float bfloat_at(const Tile& tile, int row, int index) {
  uint16_t half;
  std::memcpy(&half, &tile.bytes[row][2 * index], sizeof(half));
  const uint32_t bits = uint32_t{half} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <int kC, int kA, int kB>
inline void tile_dot_bfloats() {
  float c[16][16];
  std::memcpy(c, &tile_of(kC), sizeof(c));
  const Tile &a = tile_of(kA), &b = tile_of(kB);
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 32; ++k)
      for (int n = 0; n < 16; ++n)
        c[m][n] += bfloat_at(a, m, k) * bfloat_at(b, k / 2, 2 * n + k % 2);
  std::memcpy(&tile_of(kC), c, sizeof(c));
}

}  // namespace vkv::VKV_ISA
