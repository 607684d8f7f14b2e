// lanes_avx512.h: what gcc 12 does not make of vectors by itself, with AVX-512; see lanes.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vkv::VKV_ISA {

// The two low bytes of each of 32 lanes, the lowest with the bits of low_flip turned.
inline void store_planes(Ints first, Ints second, int low_flip, uint8_t* high, uint8_t* low) {
  const __m512i words = _mm512_packus_epi32(reinterpret_cast<__m512i>(first & 0xffff),
                                            reinterpret_cast<__m512i>(second & 0xffff));
  constexpr int kAndThenXor = 0x6a;  // of (a & b) ^ c
  const __m512i low_bytes = _mm512_ternarylogic_epi32(
      words, _mm512_set1_epi16(0xff), _mm512_set1_epi16(static_cast<short>(low_flip)), kAndThenXor);
  // In dwords: four high bytes of `first`, of `second`, four low ones of each; and so on.
  const __m512i bytes = _mm512_packus_epi16(_mm512_srli_epi16(words, 8), low_bytes);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i planes = _mm512_permutexvar_epi32(order, bytes);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), _mm512_castsi512_si256(planes));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(low), _mm512_extracti64x4_epi64(planes, 1));
}

// x less the integer below it.
inline Floats above_floor(Floats x) {
  constexpr int kFloor = 0x9;  // towards -inf, of all bits behind the point, without exceptions
  return reinterpret_cast<Floats>(_mm512_reduce_ps(reinterpret_cast<__m512>(x), kFloor));
}

// p * 2^floor(x)
inline Floats times_power(Floats p, Floats x) {
  return reinterpret_cast<Floats>(
      _mm512_scalef_ps(reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(x)));
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
