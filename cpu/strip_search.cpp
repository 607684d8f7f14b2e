// strip_search.cpp: sums, ranges, the search for the best range, and the codes of a strip.
// SPDX-License-Identifier: Apache-2.0
//
// Compiled without contraction to fma: the bits must not depend on the instruction set. A vector is
// as wide as the instruction set's registers, some or all lanes of a strip; lanes never meet.
#include <immintrin.h>

#include "cpu/lanes.h"
#include "cpu/strips.h"
#include "runtime/base/codec.h"  // constants, and functions evaluated at compile time only

namespace vkv::VKV_ISA {
namespace {

constexpr int kWidth = VKV_ISA_LANES;
constexpr int kVectors = kStripLanes / kWidth;

typedef float Wide __attribute__((vector_size(4 * VKV_ISA_LANES)));
typedef int32_t WideInts __attribute__((vector_size(4 * VKV_ISA_LANES)));
typedef uint8_t WideBytes __attribute__((vector_size(VKV_ISA_LANES)));

struct ShrinkFactors {
  float factor[kShrinkSteps];
};

constexpr ShrinkFactors shrink_factors() {
  ShrinkFactors factors = {};
  for (int step = 0; step < kShrinkSteps; ++step) factors.factor[step] = shrink_factor(step);
  return factors;
}

constexpr ShrinkFactors kShrink = shrink_factors();

inline Wide broadcast(float value) { return Wide{} + value; }

// a < b ? a : b, and so on: of equal ones, and where one is NaN, the second.
inline Wide smaller(Wide a, Wide b) { return a < b ? a : b; }
inline Wide larger(Wide a, Wide b) { return a > b ? a : b; }

inline bool any(WideInts mask) {
  WideInts zeros = {};
  return std::memcmp(&mask, &zeros, sizeof(mask)) != 0;
}

// The samples of some lanes.
struct Lanes {
  const float* values;
  int count;

  Wide operator[](int sample) const {
    return load<Wide>(values + static_cast<size_t>(sample) * kStripLanes);
  }
};

struct PartialSums {
  Wide sum[kPartialSums] = {};

  // The tree of codec.h.
  Wide total() const {
    Wide tree[kPartialSums / 2];
    for (int j = 0; j < kPartialSums / 2; ++j) tree[j] = sum[j] + sum[j + kPartialSums / 2];
    for (int step = kPartialSums / 4; step > 0; step /= 2)
      for (int j = 0; j < step; ++j) tree[j] += tree[j + step];
    return tree[0];
  }
};

// Adds term(value) of samples begin .. begin + 31, or as many as there are.
template <class Term>
inline void add_terms(const Lanes& lanes, int begin, const Term& term, PartialSums& sums) {
  if (begin + kPartialSums <= lanes.count) {
#pragma GCC unroll 4
    for (int j = 0; j < kPartialSums; ++j) sums.sum[j] += term(lanes[begin + j]);
  } else {
    for (int j = 0; begin + j < lanes.count; ++j) sums.sum[j] += term(lanes[begin + j]);
  }
}

template <class Term>
inline Wide sum_of(const Lanes& lanes, const Term& term) {
  PartialSums sums;
  for (int begin = 0; begin < lanes.count; begin += kPartialSums)
    add_terms(lanes, begin, term, sums);
  return sums.total();
}

struct WideScale {
  Wide scale, zero;
};

// To fp16 and back; `halves`: [kWidth].
inline Wide rounded(Wide exact, uint16_t* halves) {
  float floats[kWidth];
  store(floats, exact);
  for (int i = 0; i < kWidth; i += 8) {
    const __m128i half =
        _mm256_cvtps_ph(_mm256_loadu_ps(floats + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(halves + i), half);
    _mm256_storeu_ps(floats + i, _mm256_cvtph_ps(half));
  }
  return load<Wide>(floats);
}

inline Wide from_halves(const uint16_t* halves) {
  float floats[kWidth];
  for (int i = 0; i < kWidth; i += 8)
    _mm256_storeu_ps(
        floats + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i))));
  return load<Wide>(floats);
}

inline Wide inverse_of(Wide scale) {
  const Wide inverse = 1.0f / scale;
  return scale == 0.0f ? Wide{} : inverse;
}

// encode_value() of codec.h.
inline Wide code_of(Wide value, const WideScale& s, Wide inverse, Wide code_limit) {
  Wide position = (value - s.zero) * inverse;
  position = larger(Wide{}, position);
  position = smaller(code_limit, position);
  return (position + 0x1p23f) - 0x1p23f;
}

inline Wide mean_of(const Lanes& lanes) {
  return sum_of(lanes, [](Wide x) { return x; }) / static_cast<float>(lanes.count);
}

WideScale sign_scale(const Lanes& lanes) {
  const Wide mean = mean_of(lanes);
  const Wide spread = sum_of(lanes,
                             [=](Wide x) {
                               const Wide distance = x - mean;
                               return distance < 0.0f ? -distance : distance;
                             }) /
                      static_cast<float>(lanes.count);
  return {2.0f * spread, mean - spread};
}

// Sum of squared differences between values and their decoded codes; or something not below `least`
// in any lane, as soon as that is certain: sums of squares only grow, rounded or not.
inline Wide squared_error(const Lanes& lanes, const WideScale& s, Wide code_limit, bool first,
                          Wide least) {
  const Wide inverse = inverse_of(s.scale);
  PartialSums sums;
  Wide total = {};
  for (int begin = 0; begin < lanes.count; begin += kPartialSums) {
    add_terms(
        lanes, begin,
        [&](Wide x) {
          const Wide difference = x - (s.zero + s.scale * code_of(x, s, inverse, code_limit));
          return difference * difference;
        },
        sums);
    total = sums.total();
    if (!first && !any(total < least)) return total;
  }
  return total;
}

// scale and zero: [kWidth] fp16 bits.
void find_shrunk(const Lanes& lanes, Wide min, Wide max, int bits, uint16_t* scale,
                 uint16_t* zero) {
  const float code_limit = static_cast<float>((1 << bits) - 1);
  const Wide range = max - min;
  const int steps = bits == 8 ? 1 : kShrinkSteps;
  Wide least = {};
  for (int step = 0; step < steps; ++step) {
    const float shrink = kShrink.factor[step];
    uint16_t halves[2][kWidth];
    const WideScale s = {rounded(range * shrink / code_limit, halves[0]),
                         rounded(min + (1.0f - shrink) * 0.5f * range, halves[1])};
    WideInts better = Wide{} == Wide{};
    if (steps > 1) {
      const Wide error = squared_error(lanes, s, broadcast(code_limit), step == 0, least);
      if (step > 0) better = error < least;
      least = better ? error : least;
    }
    for (int i = 0; i < kWidth; ++i) {
      if (better[i] == 0) continue;
      scale[i] = halves[0][i];
      zero[i] = halves[1][i];
    }
  }
}

void find_header(const Lanes& lanes, int bits, uint16_t* scale, uint16_t* zero) {
  Wide min = lanes[0], max = lanes[0];
  for (int i = 1; i < lanes.count; ++i) {
    min = smaller(lanes[i], min);
    max = larger(lanes[i], max);
  }
  if (bits == 1) {
    const WideScale exact = sign_scale(lanes);
    (void)rounded(exact.scale, scale);
    (void)rounded(exact.zero, zero);
  } else {
    find_shrunk(lanes, min, max, bits, scale, zero);
  }
  uint16_t constant[kWidth];
  (void)rounded(min, constant);
  const WideInts is_constant = min == max;
  for (int i = 0; i < kWidth; ++i) {
    if (is_constant[i] == 0) continue;
    scale[i] = 0;
    zero[i] = constant[i];
  }
}

template <class Code>
inline void store_codes(const Lanes& lanes, const Code& code, uint8_t* codes) {
  for (int i = 0; i < lanes.count; ++i) {
    const WideInts integers = __builtin_convertvector(code(lanes[i]), WideInts);
    store(codes + i * kStripLanes, __builtin_convertvector(integers, WideBytes));
  }
}

}  // namespace

void strip_mean(const float* values, int sample_count, float* mean) {
  for (int v = 0; v < kVectors; ++v)
    store(mean + v * kWidth, mean_of({values + v * kWidth, sample_count}));
}

StripHeader strip_header(int bits, const float* values, int sample_count) {
  StripHeader header;
  for (int v = 0; v < kStripLanes; v += kWidth)
    find_header({values + v, sample_count}, bits, header.scale + v, header.zero + v);
  return header;
}

void strip_codes(int bits, const StripHeader& header, const float* values, int sample_count,
                 int padded_samples, uint8_t* codes) {
  for (int v = 0; v < kStripLanes; v += kWidth) {
    const Lanes lanes = {values + v, sample_count};
    const WideScale s = {from_halves(header.scale + v), from_halves(header.zero + v)};
    if (bits == 1) {
      // encode_sign() of codec.h; where scale is 0 no value reaches the threshold.
      const Wide middle = s.scale == 0.0f ? broadcast(__builtin_inff()) : s.zero + 0.5f * s.scale;
      store_codes(
          lanes, [=](Wide x) { return x >= middle ? broadcast(1.0f) : Wide{}; }, codes + v);
    } else {
      const Wide inverse = inverse_of(s.scale);
      const Wide code_limit = broadcast(static_cast<float>((1 << bits) - 1));
      store_codes(
          lanes, [=](Wide x) { return code_of(x, s, inverse, code_limit); }, codes + v);
    }
  }
  std::memset(codes + sample_count * kStripLanes, 0,
              static_cast<size_t>(padded_samples - sample_count) * kStripLanes);
}

}  // namespace vkv::VKV_ISA
