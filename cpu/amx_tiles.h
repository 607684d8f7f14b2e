// amx_tiles.h: the CPU's tiles, one instruction a function.
// SPDX-License-Identifier: Apache-2.0
//
// Inline assembly, since gcc 12's intrinsics want the number of a tile as a literal and do not tell
// the compiler that a load reads memory. emulated_tiles.h has the same functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/tile_config.h"

namespace vkv::VKV_ISA {

inline void tile_configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }

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

// The same with signed bytes of a.
template <int kC, int kA, int kB>
inline void tile_dot_signed() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

// c += a b: bf16 in fp32.
template <int kC, int kA, int kB>
inline void tile_dot_bfloats() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

}  // namespace vkv::VKV_ISA
