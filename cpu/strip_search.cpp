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

struct ShrinkFactors {
  float factor[8];
};

constexpr ShrinkFactors shrink_factors(int bits) {
  ShrinkFactors factors = {};
  for (int step = 0; step < shrink_steps(bits); ++step)
    factors.factor[step] = shrink_factor(bits, step);
  return factors;
}

constexpr ShrinkFactors kShrink4 = shrink_factors(4), kShrink2 = shrink_factors(2);

inline Wide broadcast(float value) { return Wide{} + value; }

// Instructions that the compiler does not find by itself. Templates, so that only those of this
// instruction set are compiled.

// The second of equal ones, and where one is NaN.
template <class V>
inline V smaller(V a, V b) {
  if constexpr (sizeof(V) == 64)
    return V(_mm512_min_ps(a, b));
  else
    return V(_mm256_min_ps(a, b));
}

template <class V>
inline V larger(V a, V b) {
  if constexpr (sizeof(V) == 64)
    return V(_mm512_max_ps(a, b));
  else
    return V(_mm256_max_ps(a, b));
}

// To the nearest integer, of two the even one.
template <class V>
inline V nearest(V x) {
  if constexpr (sizeof(V) == 64)
    return V(_mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  else
    return V(_mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// The nearest integers, 0 .. 255, as bytes.
template <class V>
inline void store_nearest(uint8_t* to, V x) {
  if constexpr (sizeof(V) == 64) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
  } else {
    const __m256i integers = _mm256_cvtps_epi32(x);
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
  }
}

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

// encode_value() of codec.h, before it is rounded.
struct Coder {
  Wide zero, inverse, code_limit;

  Coder(const WideScale& s, int bits)
      : zero(s.zero),
        inverse(inverse_of(s.scale)),
        code_limit(broadcast(static_cast<float>((1 << bits) - 1))) {}

  Wide operator()(Wide value) const {
    return smaller(code_limit, larger(Wide{}, Wide((value - zero) * inverse)));
  }
};

inline Wide mean_of(const Lanes& lanes) {
  return sum_of(lanes, [](Wide x) { return x; }) / static_cast<float>(lanes.count);
}

WideScale sign_scale(const Lanes& lanes) {
  const float count = static_cast<float>(lanes.count);
  const Wide mean = mean_of(lanes), zeros = {}, ones = broadcast(1.0f);
  const Wide spread = sum_of(lanes,
                             [=](Wide x) {
                               const Wide distance = x - mean;
                               return distance < 0.0f ? -distance : distance;
                             }) /
                      count;
  WideScale s = {2.0f * spread, mean - spread};
  for (int step = 0; step < kLevelSteps; ++step) {
    const Wide middle = s.zero + 0.5f * s.scale;
    const Wide upper_count = sum_of(lanes, [=](Wide x) { return x >= middle ? ones : zeros; });
    const Wide upper = sum_of(lanes, [=](Wide x) { return x >= middle ? x : zeros; }) / upper_count;
    const Wide lower =
        sum_of(lanes, [=](Wide x) { return x >= middle ? zeros : x; }) / (count - upper_count);
    const WideInts both = (upper_count != 0.0f) & (upper_count != count);
    s = {both ? upper - lower : s.scale, both ? lower : s.zero};
  }
  return s;
}

// Sum of error_term() of codec.h over differences between values and their decoded codes; or
// something above `least` in every lane, as soon as that is certain: sums of even powers only grow,
// rounded or not.
template <int kBits>
inline Wide error_of(const Lanes& lanes, const WideScale& s, bool first, Wide least) {
  const Coder coder(s, kBits);
  const Wide zero = s.zero, scale = s.scale;
  PartialSums sums;
  Wide total = {};
  for (int begin = 0; begin < lanes.count; begin += kPartialSums) {
    add_terms(
        lanes, begin,
        [=](Wide x) {
          const Wide difference = x - (zero + scale * nearest(coder(x)));
          const Wide square = difference * difference;
          return kBits == 4 ? square * square : square;
        },
        sums);
    total = sums.total();
    if (!first && !any(total <= least)) return total;
  }
  return total;
}

// The i-th candidate to look at. The first must be the first, as it stays where its error is not a
// number. Then one that is often the best, so that bad ones can be abandoned early; then the rest.
inline int step_at(int i, int bits) {
  const int likely = bits == 4 ? 1 : 4;  // the best for normal values: r = .95 and .6
  if (i == 0) return 0;
  if (i == 1) return likely;
  return i <= likely ? i - 1 : i;
}

// scale and zero: [kWidth] fp16 bits.
void find_shrunk(const Lanes& lanes, Wide min, Wide max, int bits, uint16_t* scale,
                 uint16_t* zero) {
  const float code_limit = static_cast<float>((1 << bits) - 1);
  const Wide range = max - min;
  const int steps = bits == 8 ? 1 : shrink_steps(bits);
  const ShrinkFactors& factors = bits == 4 ? kShrink4 : kShrink2;
  Wide least = {}, best = {};
  for (int i = 0; i < steps; ++i) {
    const int step = bits == 8 ? 0 : step_at(i, bits);
    const float shrink = bits == 8 ? 1.0f : factors.factor[step], order = static_cast<float>(step);
    uint16_t halves[2][kWidth];
    const WideScale s = {rounded(range * shrink / code_limit, halves[0]),
                         rounded(min + (1.0f - shrink) * 0.5f * range, halves[1])};
    WideInts better = Wide{} == Wide{};
    if (steps > 1) {
      const Wide error =
          bits == 4 ? error_of<4>(lanes, s, i == 0, least) : error_of<2>(lanes, s, i == 0, least);
      // Of equal errors that of the least step wins, in whatever order they come.
      if (i > 0) better = (error < least) | ((error == least) & (order < best));
      least = better ? error : least;
      best = better ? broadcast(order) : best;
    }
    for (int lane = 0; lane < kWidth; ++lane) {
      if (better[lane] == 0) continue;
      scale[lane] = halves[0][lane];
      zero[lane] = halves[1][lane];
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

// spread_scale() of codec.h.
void spread_header(int bits, float spread, uint16_t* scale, uint16_t* zero) {
  const Wide found_scale = from_halves(scale), found_zero = from_halves(zero);
  const float margin = 0.5f * (spread - 1.0f) * static_cast<float>((1 << bits) - 1);
  (void)rounded(spread * found_scale, scale);
  (void)rounded(found_zero - margin * found_scale, zero);
}

template <class Code>
inline void store_codes(const Lanes& lanes, const Code& code, uint8_t* codes) {
  for (int i = 0; i < lanes.count; ++i) {
    store_nearest(codes + i * kStripLanes, code(lanes[i]));
  }
}

}  // namespace

void strip_mean(const float* values, int sample_count, float* mean) {
  for (int v = 0; v < kVectors; ++v)
    store(mean + v * kWidth, mean_of({values + v * kWidth, sample_count}));
}

StripHeader strip_header(int bits, float spread, const float* values, int sample_count) {
  StripHeader header;
  for (int v = 0; v < kStripLanes; v += kWidth) {
    find_header({values + v, sample_count}, bits, header.scale + v, header.zero + v);
    if (spread != 1.0f) spread_header(bits, spread, header.scale + v, header.zero + v);
  }
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
      store_codes(lanes, Coder(s, bits), codes + v);
    }
  }
  std::memset(codes + sample_count * kStripLanes, 0,
              static_cast<size_t>(padded_samples - sample_count) * kStripLanes);
}

}  // namespace vkv::VKV_ISA
