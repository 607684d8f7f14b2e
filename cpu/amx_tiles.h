// amx_tiles.h: the CPU's tiles, one instruction a function.
// SPDX-License-Identifier: Apache-2.0
//
// Inline assembly, since gcc 12's intrinsics want the number of a tile as a literal and do not tell
// the compiler that a load reads memory. emulated_tiles.h has the same functions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vkv::VKV_ISA {

// Intel SDM volume 1, section 18.2: palette 1 has 8 tiles of 16 rows of 64 bytes.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline void tile_configure() {
  alignas(64) static constexpr TileConfig kConfig;
  asm volatile("ldtilecfg %0" ::"m"(kConfig));
}

inline void tile_release() { asm volatile("tilerelease" ::: "memory"); }

template <int kTile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

template <int kTile>
inline void tile_load(const void* from, size_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(kTile) : "memory");
}

template <int kTile>
inline void tile_store(void* to, size_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(kTile) : "memory");
}

// c += a b: unsigned bytes of a, signed ones of b, in int32.
template <int kC, int kA, int kB>
inline void tile_dot_bytes() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

// c += a b: bf16 in fp32.
template <int kC, int kA, int kB>
inline void tile_dot_bfloats() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

}  // namespace vkv::VKV_ISA
