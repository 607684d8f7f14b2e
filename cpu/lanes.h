// lanes.h: sixteen floats at a time, by the compiler's vector extension.
// SPDX-License-Identifier: Apache-2.0
//
// Sixteen on every instruction set, so that sums run in the same order on all of them. Included
// only by the sources behind tile_functions.h: VKV_ISA is the namespace of the instruction set that
// the including file is compiled for.
#pragma once

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
  const Floats8 x = low_half(floats) + high_half(floats);
  const float a = x[0] + x[4], b = x[1] + x[5], c = x[2] + x[6], d = x[3] + x[7];
  return (a + c) + (b + d);
}

inline double sum_of_lanes(Doubles x) {
  return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

// A float near this one has its integer part in the low bits: adding it rounds to nearest even.
inline constexpr float kRoundingShift = 0x1.8p23f;

// The two low bytes of each lane.
inline void store_planes(Ints lanes, uint8_t* high, uint8_t* low) {
  store(high, __builtin_convertvector(lanes >> 8, Bytes));
  store(low, __builtin_convertvector(lanes, Bytes));
}

// e^x for x <= 0, to 1e-7 of the result; e^-87 below -87, short of subnormals. NaN stays NaN.
// The polynomial is that of Cephes' expf, on |x| <= ln(2) / 2.
inline Floats exp_of(Floats x) {
  const Floats least = all(-87.0f);
  const Floats clamped = x < least ? least : x;
  const Floats shifted = clamped * 1.44269504088896341f + all(kRoundingShift);
  const Floats n = shifted - all(kRoundingShift);
  const Floats f = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  const Floats power = from_bits((bits_of(shifted) + 127) << 23);  // what stood above n is lost
  return p * power;
}

}  // namespace vkv::VKV_ISA
