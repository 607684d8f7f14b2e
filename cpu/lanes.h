// lanes.h: sixteen floats at a time, by the compiler's vector extension.
// SPDX-License-Identifier: Apache-2.0
//
// Sixteen on every instruction set, so that sums run in the same order on all of them. Included
// only by the sources behind tile_functions.h: VKV_ISA is the namespace of the instruction set that
// the including file is compiled for.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vkv::VKV_ISA {

inline constexpr int kLanes = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(64)));  // 8 lanes
typedef float Floats8 __attribute__((vector_size(32)));
typedef int32_t Ints8 __attribute__((vector_size(32)));
typedef uint32_t Words8 __attribute__((vector_size(32)));

template <class Vector>
inline Vector load(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof(vector));
  return vector;
}

template <class Vector>
inline void store(void* to, const Vector& vector) {
  std::memcpy(to, &vector, sizeof(vector));
}

inline Floats all(float value) { return Floats{} + value; }
inline Ints max_of(Ints a, Ints b) { return a > b ? a : b; }
inline Floats to_floats(Ints ints) { return __builtin_convertvector(ints, Floats); }
inline Ints to_ints(Floats floats) { return __builtin_convertvector(floats, Ints); }
inline Ints bits_of(Floats floats) { return load<Ints>(&floats); }
inline Floats from_bits(Ints bits) { return load<Floats>(&bits); }

inline Ints lane_index() { return Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

inline Floats8 low_half(const Floats& x) { return load<Floats8>(&x); }
inline Floats8 high_half(const Floats& x) {
  return load<Floats8>(reinterpret_cast<const char*>(&x) + sizeof(Floats8));
}

// Sums across lanes, always in the same tree: lane i takes lane i + 8, then i + 4, 2, 1.
inline float sum_of_lanes(Floats floats) {
  const __m256 x = low_half(floats) + high_half(floats);
  const __m128 y = _mm256_castps256_ps128(x) + _mm256_extractf128_ps(x, 1);
  const __m128 z = y + _mm_movehl_ps(y, y);
  return z[0] + z[1];
}

inline double sum_of_lanes(Doubles doubles) {
  const __m256d x = load<__m256d>(&doubles) +
                    load<__m256d>(reinterpret_cast<const char*>(&doubles) + sizeof(__m256d));
  const __m128d y = _mm256_castpd256_pd128(x) + _mm256_extractf128_pd(x, 1);
  return y[0] + y[1];
}

// The largest lane; none is NaN.
inline float max_of_lanes(Floats floats) {
  const __m256 x = _mm256_max_ps(low_half(floats), high_half(floats));
  const __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 z = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return z[1] > z[0] ? z[1] : z[0];
}

inline int32_t max_of_lanes(Ints ints) {
  const __m256i low = load<__m256i>(&ints);
  const __m256i high = load<__m256i>(reinterpret_cast<const char*>(&ints) + sizeof(low));
  const __m256i x = _mm256_max_epi32(low, high);
  const __m128i y = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  const __m128i z = _mm_max_epi32(y, _mm_unpackhi_epi64(y, y));
  const int32_t a = _mm_cvtsi128_si32(z), b = _mm_extract_epi32(z, 1);
  return a > b ? a : b;
}

// A float near this one has its integer part in the low bits: adding it rounds to nearest even.
inline constexpr float kRoundingShift = 0x1.8p23f;

}  // namespace vkv::VKV_ISA

#include VKV_LANES

namespace vkv::VKV_ISA {

// 2^x for x <= 0, to 1e-7 of the result; next to nothing below -126. NaN stays NaN. The polynomial
// interpolates at Chebyshev's points between 0 and 1, where it is exact.
inline Floats exp2_of(Floats x) {
  const Floats f = above_floor(x);
  Floats p = all(2.188922808272764e-4f);
  p = p * f + 1.2411379721015692e-3f;
  p = p * f + 9.67821478843689e-3f;
  p = p * f + 5.54860457777977e-2f;
  p = p * f + 0.2402285635471344f;
  p = p * f + 0.6931471228599548f;
  p = p * f + 1.0f;
  return times_power(p, x);
}

}  // namespace vkv::VKV_ISA
