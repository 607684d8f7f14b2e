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
inline void store_16_planes(Ints lanes, uint8_t* high, uint8_t* low) {
  const __m256i byte = _mm256_set1_epi32(255);
  const __m256i a = load<__m256i>(&lanes);
  const __m256i b = load<__m256i>(reinterpret_cast<const char*>(&lanes) + sizeof(a));
  const auto second = [&](__m256i x) { return _mm256_and_si256(_mm256_srli_epi32(x, 8), byte); };
  store(high, low_bytes(second(a), second(b)));
  store(low, low_bytes(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte)));
}

// The two low bytes of each of 32 lanes, the lowest with the bits of low_flip turned.
inline void store_planes(Ints first, Ints second, int low_flip, uint8_t* high, uint8_t* low) {
  store_16_planes(first ^ low_flip, high, low);
  store_16_planes(second ^ low_flip, high + kLanes, low + kLanes);
}

inline Floats not_below(Floats x, float least) { return x < all(least) ? all(least) : x; }

inline Floats floor_of(Floats x) {
  const __m256 halves[2] = {_mm256_floor_ps(low_half(x)), _mm256_floor_ps(high_half(x))};
  return load<Floats>(halves);
}

// x less the integer below it.
inline Floats above_floor(Floats x) {
  const Floats clamped = not_below(x, -126.0f);
  return clamped - floor_of(clamped);
}

// p * 2^floor(x), of x = -126 below that; x <= 0.
inline Floats times_power(Floats p, Floats x) {
  return p * from_bits((to_ints(floor_of(not_below(x, -126.0f))) + 127) << 23);
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
