// softmax.cpp: 2^(score - max of the row in this tile), as fp32 or as two planes of bytes.
// SPDX-License-Identifier: Apache-2.0
//
// Planes hold a weight in 16 bits. Rounding each weight alone would lose a flat tail below half a
// step beside one dominating token: so what rounding leaves over goes to the weight sixteen tokens
// on, and the mass of the tail is kept to a step a lane.
#include "cpu/softmax.h"

#include "cpu/ahead.h"
#include "cpu/lanes.h"

namespace vkv::VKV_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// Lanes of a vector that begins at token t and are visible.
inline Ints visible_lanes(int t, int visible) { return lane_index() < visible - t; }

// -inf where nothing is visible.
inline float row_max(const float* scores, int visible) {
  Floats even = all(kMinusInfinity), odd = even;
  int t = 0;
  for (; t + 2 * kLanes <= visible; t += 2 * kLanes) {
    even = larger(load<Floats>(scores + t), even);
    odd = larger(load<Floats>(scores + t + kLanes), odd);
  }
  for (; t < visible; t += kLanes)
    even = larger(visible_lanes(t, visible) ? load<Floats>(scores + t) : even, even);
  return max_of_lanes(larger(even, odd));
}

// In a pass of its own, so that no row's weights wait for the maximum.
inline void find_maxima(const TileWeights& weights) {
  for (int row = 0; row < weights.rows; ++row)
    weights.max[row] =
        row_max(weights.scores + static_cast<size_t>(row) * kTileTokens, weights.visible[row]);
}

// Rows are weighed some together, so that none waits for its own last addition.
constexpr int kTogether = 4;

// The first tokens that all of these rows see, in 32s.
template <int kRows>
inline int seen_by_all(const TileWeights& weights, int first) {
  int seen = weights.tokens;
  for (int i = 0; i < kRows; ++i)
    if (weights.visible[first + i] < seen) seen = weights.visible[first + i];
  return seen / 32 * 32;
}

inline Floats weights_at(const float* scores, int t, float max) {
  return exp2_of(load<Floats>(scores + t) - max);
}

inline Floats visible_weights_at(const float* scores, int t, int visible, float max) {
  return visible_lanes(t, visible) ? weights_at(scores, t, max) : Floats{};
}

template <int kRows>
void weigh_floats(const TileWeights& weights, int first) {
  Floats sums[kRows] = {};
  float* const scores = weights.scores + static_cast<size_t>(first) * kTileTokens;
  const int whole = seen_by_all<kRows>(weights, first);
  for (int t = 0; t < whole; t += kLanes)
    for (int i = 0; i < kRows; ++i) {
      float* const at = scores + i * kTileTokens;
      const Floats weight = weights_at(at, t, weights.max[first + i]);
      store(at + t, weight);
      sums[i] += weight;
    }
  for (int t = whole; t < weights.tokens; t += kLanes)
    for (int i = 0; i < kRows; ++i) {
      float* const at = scores + i * kTileTokens;
      const Floats weight =
          visible_weights_at(at, t, weights.visible[first + i], weights.max[first + i]);
      store(at + t, weight);
      sums[i] += weight;
    }
  for (int i = 0; i < kRows; ++i) weights.sum[first + i] = sum_of_lanes(sums[i]);
}

struct PlaneSums {
  Floats sum = {}, rest = {};

  // The low 16 bits of what is returned are the weight in steps.
  Ints add(Floats weight) {
    // Never below -0.5 nor above kPlaneSteps + 0.5, so it rounds into 16 bits without a clamp.
    const Floats exact = weight * kPlaneSteps + rest;
    const Floats shifted = exact + all(kRoundingShift);
    const Floats rounded = shifted - all(kRoundingShift);
    rest = exact - rounded;
    sum += rounded;
    return bits_of(shifted);
  }
};

template <int kRows>
void weigh_planes(const TileWeights& weights, int first) {
  PlaneSums sums[kRows];
  const float* const scores = weights.scores + static_cast<size_t>(first) * kTileTokens;
  uint8_t* const high = weights.planes + static_cast<size_t>(first) * kTileTokens;
  uint8_t* const low = high + static_cast<size_t>(weights.rows) * kTileTokens;
  const int whole = seen_by_all<kRows>(weights, first);
  for (int t = 0; t < whole; t += 2 * kLanes)
    for (int i = 0; i < kRows; ++i) {
      const float* const at = scores + i * kTileTokens;
      const float max = weights.max[first + i];
      const Ints even = sums[i].add(weights_at(at, t, max));
      const Ints odd = sums[i].add(weights_at(at, t + kLanes, max));
      store_planes(even, odd, /*low_flip=*/0, high + i * kTileTokens + t,
                   low + i * kTileTokens + t);
    }
  for (int t = whole; t < weights.tokens; t += 2 * kLanes)
    for (int i = 0; i < kRows; ++i) {
      const float* const at = scores + i * kTileTokens;
      const int visible = weights.visible[first + i];
      const float max = weights.max[first + i];
      // Lanes that are not visible take no part, and what was left over stays as it is.
      Ints steps[2] = {};
      for (int half = 0; half < 2; ++half) {
        const int begin = t + half * kLanes;
        if (begin >= visible) break;
        steps[half] = sums[i].add(visible_weights_at(at, begin, visible, max));
      }
      store_planes(steps[0], steps[1], /*low_flip=*/0, high + i * kTileTokens + t,
                   low + i * kTileTokens + t);
    }
  for (int i = 0; i < kRows; ++i) {
    // The sum is of integers below 2^24: exact. A score that is not a number shows in `rest`.
    const float nan_or_zero = sum_of_lanes(sums[i].rest) * 0.0f;
    weights.sum[first + i] = sum_of_lanes(sums[i].sum) * (1.0f / kPlaneSteps) + nan_or_zero;
  }
}

}  // namespace

void softmax_floats(const TileWeights& weights) {
  find_maxima(weights);
  for (int row = 0; row < weights.rows; row += kTogether) {
    const int rows = weights.rows - row;
    for (int i = 0; i < rows && i < kTogether; ++i) step(weights.ahead);
    const auto weigh = rows == 1   ? weigh_floats<1>
                       : rows == 2 ? weigh_floats<2>
                       : rows == 3 ? weigh_floats<3>
                                   : weigh_floats<kTogether>;
    weigh(weights, row);
  }
}

void softmax_planes(const TileWeights& weights) {
  find_maxima(weights);
  for (int row = 0; row < weights.rows; row += kTogether) {
    const int rows = weights.rows - row;
    for (int i = 0; i < rows && i < kTogether; ++i) step(weights.ahead);
    const auto weigh = rows == 1   ? weigh_planes<1>
                       : rows == 2 ? weigh_planes<2>
                       : rows == 3 ? weigh_planes<3>
                                   : weigh_planes<kTogether>;
    weigh(weights, row);
  }
}

}  // namespace vkv::VKV_ISA
