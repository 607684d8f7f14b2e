// transpose.h: 16-bit values: eight rows of eight, and eight of them as fp32.
// SPDX-License-Identifier: Apache-2.0
//
// Included only by sources that are compiled once per instruction set; see lanes.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace vkv::VKV_ISA {

// Eight rows of eight 16-bit values; result[i] has column i of every row.
inline void transpose_8x8(__m128i (&rows)[8]) {
  __m128i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm_unpacklo_epi16(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm_unpackhi_epi16(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    b[4 * i] = _mm_unpacklo_epi32(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm_unpackhi_epi32(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm_unpacklo_epi32(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm_unpackhi_epi32(a[4 * i + 1], a[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    rows[2 * i] = _mm_unpacklo_epi64(b[i], b[i + 4]);
    rows[2 * i + 1] = _mm_unpackhi_epi64(b[i], b[i + 4]);
  }
}

template <bool kBfloat>
inline __m256 widen(__m128i halves) {
  if constexpr (kBfloat)
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  else
    return _mm256_cvtph_ps(halves);
}

inline __m128i load_halves(const uint16_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

inline void store_halves(uint16_t* to, __m128i halves) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), halves);
}

}  // namespace vkv::VKV_ISA
