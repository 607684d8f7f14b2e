// lanes_avx2.h: what gcc 12 does not make of vectors by itself, with AVX2; see lanes.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vkv::VKV_ISA {

// Low bytes of sixteen lanes, each below 256.
inline __m128i low_bytes(__m256i a, __m256i b) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

// The two low bytes of each lane.
inline void store_planes(Ints lanes, uint8_t* high, uint8_t* low) {
  const __m256i byte = _mm256_set1_epi32(255);
  const __m256i a = load<__m256i>(&lanes);
  const __m256i b = load<__m256i>(reinterpret_cast<const char*>(&lanes) + sizeof(a));
  const auto second = [&](__m256i x) { return _mm256_and_si256(_mm256_srli_epi32(x, 8), byte); };
  store(high, low_bytes(second(a), second(b)));
  store(low, low_bytes(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte)));
}

template <bool kBfloat>
inline __m256 widen_8(const uint16_t* from) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  if constexpr (kBfloat)
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  else
    return _mm256_cvtph_ps(halves);
}

template <bool kBfloat>
inline Floats widen_16(const uint16_t* from) {
  const __m256 halves[2] = {widen_8<kBfloat>(from), widen_8<kBfloat>(from + 8)};
  return load<Floats>(halves);
}

// NaN in a is passed over.
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

}  // namespace vkv::VKV_ISA
