// lanes_avx512.h: what gcc 12 does not make of vectors by itself, with AVX-512; see lanes.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vkv::VKV_ISA {

// The two low bytes of each lane.
inline void store_planes(Ints lanes, uint8_t* high, uint8_t* low) {
  const __m512i bits = reinterpret_cast<__m512i>(lanes);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(high),
                   _mm512_cvtepi32_epi8(_mm512_srli_epi32(bits, 8)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(low), _mm512_cvtepi32_epi8(bits));
}

template <bool kBfloat>
inline Floats widen_16(const uint16_t* from) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  if constexpr (kBfloat)
    return reinterpret_cast<Floats>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  else
    return reinterpret_cast<Floats>(_mm512_cvtph_ps(halves));
}

// NaN in a is passed over.
inline Floats larger(Floats a, Floats b) {
  return reinterpret_cast<Floats>(
      _mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}

}  // namespace vkv::VKV_ISA
