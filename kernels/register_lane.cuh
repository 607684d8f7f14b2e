// register_lane.cuh: a lane whose samples lie in the registers of four neighbouring threads.
// SPDX-License-Identifier: Apache-2.0
//
// Thread q of the four has samples 8 * m + 2 * q + e as x[2 * m + e], e = 0 or 1: what ldmatrix
// gives. Of the 32 partial sums of codec.h it so has those with j / 2 % 4 == q, and of the tree
// only the steps j + 4 and j + 2 go from thread to thread.
#pragma once

#include "kernels/lane_scale.cuh"

namespace vkv {

// The eight partial sums of a thread: of sample slot s in sums[s % 8].
__device__ inline float tree_sum(const float (&sums)[8]) {
  float even = (sums[0] + sums[4]) + (sums[2] + sums[6]);  // steps 16 and 8, j even
  float odd = (sums[1] + sums[5]) + (sums[3] + sums[7]);
  even += __shfl_xor_sync(kAllLanes, even, 2);  // step 4
  odd += __shfl_xor_sync(kAllLanes, odd, 2);
  even += __shfl_xor_sync(kAllLanes, even, 1);  // step 2
  odd += __shfl_xor_sync(kAllLanes, odd, 1);
  return even + odd;
}

// Predicated additions, where the compiler would select and move. A sample of the other side would
// add 0, which changes no sum.
__device__ inline void add_to_side(float x, float middle, float& upper_count, float& upper,
                                   float& lower) {
  asm("{\n"
      "  .reg .pred is_upper;\n"
      "  setp.ge.f32 is_upper, %3, %4;\n"
      "  @is_upper add.f32 %0, %0, 0f3F800000;\n"
      "  @is_upper add.f32 %1, %1, %3;\n"
      "  @!is_upper add.f32 %2, %2, %3;\n"
      "}"
      : "+f"(upper_count), "+f"(upper), "+f"(lower)
      : "f"(x), "f"(middle));
}

// kFull: all 4 * kSlots samples are there.
template <int kSlots, bool kFull>
struct RegisterLane {
  static constexpr int kSamplesMax = 4 * kSlots;

  float x[kSlots];  // the first sample where there is none
  int sample_count;
  int quarter;  // q

  __device__ int count() const { return kFull ? kSamplesMax : sample_count; }
  __device__ bool has(int slot) const {
    return kFull || 8 * (slot / 2) + slot % 2 < sample_count - 2 * quarter;
  }

  template <class Term>
  __device__ float sum_of(const Term& term) const {
    float sums[8] = {};
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (has(slot)) sums[slot % 8] += term(x[slot]);
    return tree_sum(sums);
  }

  __device__ LaneSplit split_at(float middle) const {
    float upper[8] = {}, lower[8] = {};
    float upper_count = 0.0f;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (has(slot)) add_to_side(x[slot], middle, upper_count, upper[slot % 8], lower[slot % 8]);
    upper_count += __shfl_xor_sync(kAllLanes, upper_count, 1);
    upper_count += __shfl_xor_sync(kAllLanes, upper_count, 2);
    // Each of the four threads makes one of the two divisions.
    const float upper_sum = tree_sum(upper), lower_sum = tree_sum(lower);
    const bool is_upper = quarter % 2 == 0;
    const float mean = (is_upper ? upper_sum : lower_sum) /
                       (is_upper ? upper_count : static_cast<float>(count()) - upper_count);
    return {upper_count, __shfl_sync(kAllLanes, mean, 0, 4), __shfl_sync(kAllLanes, mean, 1, 4)};
  }

  // Each of the four threads works out a quarter of the candidates: two divisions each.
  template <int kBits>
  __device__ auto candidates(const LaneRange& range) const {
    constexpr int kOwn = shrink_steps(kBits) / 4;
    struct Candidates {
      ShrunkScale own[kOwn];

      __device__ ShrunkScale operator()(int step) const {
        ShrunkScale s = own[0];
#pragma unroll
        for (int i = 1; i < kOwn; ++i)
          if (step / 4 == i) s = own[i];
        return {__shfl_sync(kAllLanes, s.scale, step % 4, 4),
                __shfl_sync(kAllLanes, s.zero, step % 4, 4),
                __shfl_sync(kAllLanes, s.inverse, step % 4, 4)};
      }
    };
    Candidates all;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) all.own[i] = shrunk_candidate<kBits>(range, quarter + 4 * i);
    return all;
  }

  __device__ LaneRange range() const {
    LaneRange range = {x[0], x[0], 0.0f, __shfl_sync(kAllLanes, x[0], 0, 4), false, false};
#pragma unroll
    for (int slot = 1; slot < kSlots; ++slot) {
      range.min = least_or_nan(range.min, x[slot]);
      range.max = greatest_or_nan(range.max, x[slot]);
    }
#pragma unroll
    for (int step = 1; step <= 2; step *= 2) {
      range.min = least_or_nan(range.min, __shfl_xor_sync(kAllLanes, range.min, step));
      range.max = greatest_or_nan(range.max, __shfl_xor_sync(kAllLanes, range.max, step));
    }
    range.constant = range.min == range.max;
    range.finite = is_finite(range.min) && is_finite(range.max);
    return range;
  }

  // The same for I1, of which comparisons are the limit: values are all finite where their sum is,
  // and looked at one by one only where it is not, or where some lane of the warp may be constant.
  __device__ LaneRange sum_range() const {
    LaneRange range = {};
    range.first = __shfl_sync(kAllLanes, x[0], 0, 4);
    range.sum = sum_of([](float value) { return value; });
    range.finite = is_finite(range.sum);
    // Samples that are all alike give a sum that is off by less than 2^-19 of itself.
    const float count_times_first = static_cast<float>(count()) * range.first;
    const float bound = 0x1p-18f * fabsf(count_times_first) + 0x1p-120f;
    const bool constant = fabsf(range.sum - count_times_first) <= bound;
    if (__any_sync(kAllLanes, constant || !range.finite)) {
      const LaneRange exact = this->range();
      range.constant = exact.constant;
      range.finite = exact.finite;
    }
    return range;
  }
};

}  // namespace vkv
