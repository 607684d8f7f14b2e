// lane_scale.cuh: scale and zero of a lane, as runtime/base/codec.h has them.
// SPDX-License-Identifier: Apache-2.0
//
// Compiled without contraction to fma: the bits must be those of the CPU's encoder. Where fma is
// called by name the product is exact.
//
// A `Lane` is a view of one lane's samples that several threads hold together; all of them call
// these functions, with all lanes of their warp, and get the same result:
//
//   count()               samples
//   sum_of(term)          the sum of term(x), in the order of codec.h
//   split_at(middle)      samples from `middle` on, and the means of these and of the others
//   candidates<bits>(r)   a function of a step: the ShrunkScale of that candidate
//
// No branch here depends on a lane's values, so that its neighbours may share a warp.
#pragma once

#include "kernels/encode_values.cuh"
#include "runtime/base/codec.h"

namespace vkv {

struct LaneRange {
  float min, max;  // not of I1
  float sum;       // of I1 only
  float first;     // the first sample: which of +0 and -0 a constant lane holds
  bool constant, finite;
};

struct LaneSplit {
  float upper_count, upper, lower;  // means; not numbers of use where their side is empty
};

// A candidate, rounded to fp16, and what values are multiplied with.
struct ShrunkScale {
  float scale, zero, inverse;
};

__device__ inline ChannelScale rounded(const ChannelScale& exact) {
  return {device_float_from_half(device_half_from_float(exact.scale)),
          device_float_from_half(device_half_from_float(exact.zero))};
}

// encode_value() of codec.h before the 2^23 is taken off again: the code is in the low byte.
__device__ inline float biased_code(float value, float zero, float inverse, float code_limit) {
  const float position = (value - zero) * inverse;
  return least_or_nan(greatest_or_nan(position, 0.0f), code_limit) + 0x1p23f;
}

template <int kBits>
__device__ inline float shrunk_error(float value, const ShrunkScale& s) {
  constexpr float kCodeLimit = static_cast<float>(code_max(kBits));
  const float code = biased_code(value, s.zero, s.inverse, kCodeLimit) - 0x1p23f;
  // Both fp16 scale and code are short: their product is exact, as decode_value() wants it.
  return error_term(kBits, value - __fmaf_rn(s.scale, code, s.zero));
}

template <int kBits>
__device__ inline ShrunkScale shrunk_candidate(const LaneRange& range, int step) {
  const float code_limit = static_cast<float>(code_max(kBits));
  const ChannelScale s = rounded(
      shrunk_scale(range.min, range.max - range.min, shrink_factor(kBits, step), code_limit));
  return {s.scale, s.zero, inverse_scale(s.scale)};
}

template <class Lane>
__device__ inline ChannelScale sign_scale(const Lane& lane, float sum) {
  const float count = static_cast<float>(lane.count());
  const float mean = sum / count;
  const float spread = lane.sum_of([=](float x) { return fabsf(x - mean); }) / count;
  ChannelScale s = {2.0f * spread, mean - spread};
  for (int step = 0; step < kLevelSteps; ++step) {
    // Where one side is empty nothing changes, nor would it in the steps that codec.h leaves out.
    const LaneSplit split = lane.split_at(s.zero + 0.5f * s.scale);
    if (split.upper_count != 0.0f && split.upper_count != count)
      s = {split.upper - split.lower, split.lower};
  }
  return rounded(s);
}

template <int kBits, class Lane>
__device__ inline ChannelScale best_shrunk_scale(const Lane& lane, const LaneRange& range) {
  const auto candidates = lane.template candidates<kBits>(range);
  ChannelScale best = {};
  float least = 0.0f;
  for (int step = 0; step < shrink_steps(kBits); ++step) {
    const ShrunkScale s = candidates(step);
    const float error = lane.sum_of([=](float x) { return shrunk_error<kBits>(x, s); });
    if (step > 0 && !(error < least)) continue;
    least = error;
    best = {s.scale, s.zero};
  }
  return best;
}

template <int kBits, class Lane>
__device__ inline ChannelScale lane_scale(const Lane& lane, const LaneRange& range) {
  ChannelScale s;
  if constexpr (kBits == 1)
    s = sign_scale(lane, range.sum);
  else if constexpr (kBits == 8)
    s = rounded(shrunk_scale(range.min, range.max - range.min, 1.0f, 255.0f));
  else
    s = best_shrunk_scale<kBits>(lane, range);
  return range.constant ? rounded({0.0f, range.first}) : s;
}

// What stands in a header: fp16 bits.
struct HeaderEntry {
  uint16_t scale, zero;

  __device__ bool is_finite() const {
    return (scale & kHalfInf) != kHalfInf && (zero & kHalfInf) != kHalfInf;
  }
};

__device__ inline HeaderEntry header_entry(ChannelScale s, float spread, float code_limit) {
  if (spread != 1.0f) s = spread_scale(s, spread, code_limit);
  return {device_half_from_float(s.scale), device_half_from_float(s.zero)};
}

}  // namespace vkv
