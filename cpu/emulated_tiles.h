// emulated_tiles.h: amx_tiles.h by plain loops, for tests on CPUs without AMX.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vkv::VKV_ISA {

struct Tile {
  uint8_t bytes[16][64];
};

// The calling thread's. `configured`: what real tiles would fault on shows here too.
struct Tiles {
  Tile tile[8];
  bool configured;
};

inline Tiles& tiles() {
  static thread_local Tiles all;
  return all;
}

inline Tile& tile_of(int index) {
  if (!tiles().configured) __builtin_trap();
  return tiles().tile[index];
}

inline void tile_configure() {
  std::memset(&tiles(), 0, sizeof(Tiles));
  tiles().configured = true;
}

inline void tile_release() { tiles().configured = false; }

template <int kTile>
inline void tile_zero() {
  std::memset(&tile_of(kTile), 0, sizeof(Tile));
}

template <int kTile>
inline void tile_load(const void* from, size_t row_bytes) {
  for (size_t row = 0; row < 16; ++row)
    std::memcpy(tile_of(kTile).bytes[row], static_cast<const char*>(from) + row * row_bytes, 64);
}

template <int kTile>
inline void tile_store(void* to, size_t row_bytes) {
  for (size_t row = 0; row < 16; ++row)
    std::memcpy(static_cast<char*>(to) + row * row_bytes, tile_of(kTile).bytes[row], 64);
}

template <int kC, int kA, int kB>
inline void tile_dot_bytes() {
  int32_t c[16][16];
  std::memcpy(c, &tile_of(kC), sizeof(c));
  const Tile &a = tile_of(kA), &b = tile_of(kB);
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 64; ++k)
      for (int n = 0; n < 16; ++n)
        c[m][n] += int32_t{a.bytes[m][k]} * static_cast<int8_t>(b.bytes[k / 4][4 * n + k % 4]);
  std::memcpy(&tile_of(kC), c, sizeof(c));
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
