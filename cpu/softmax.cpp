// softmax.cpp: exp(score - max of the row in this tile), as fp32 or as two planes of bytes.
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

inline Floats weights_at(const float* scores, int t, int visible, float max) {
  const Floats weight = exp_of(load<Floats>(scores + t) - max);
  return t + kLanes <= visible ? weight : visible_lanes(t, visible) ? weight : Floats{};
}

}  // namespace

void softmax_floats(const TileWeights& weights) {
  find_maxima(weights);
  for (int row = 0; row < weights.rows; ++row) {
    step(weights.ahead);
    float* scores = weights.scores + static_cast<size_t>(row) * kTileTokens;
    const int visible = weights.visible[row];
    const float max = weights.max[row];
    Floats sum = {};
    int t = 0;
    for (; t < visible; t += kLanes) {
      const Floats weight = weights_at(scores, t, visible, max);
      store(scores + t, weight);
      sum += weight;
    }
    for (; t < weights.tokens; t += kLanes) store(scores + t, Floats{});
    weights.sum[row] = sum_of_lanes(sum);
  }
}

void softmax_planes(const TileWeights& weights) {
  find_maxima(weights);
  for (int row = 0; row < weights.rows; ++row) {
    step(weights.ahead);
    const float* scores = weights.scores + static_cast<size_t>(row) * kTileTokens;
    uint8_t* high = weights.planes + static_cast<size_t>(row) * kTileTokens;
    uint8_t* low = weights.planes + static_cast<size_t>(weights.rows + row) * kTileTokens;
    const int visible = weights.visible[row];
    const float max = weights.max[row];
    Floats sum = {}, rest = {};
    int t = 0;
    for (; t < visible; t += kLanes) {
      // Never below -0.5 nor above kPlaneSteps + 0.5, so it rounds into 16 bits without a clamp.
      const Floats exact = weights_at(scores, t, visible, max) * kPlaneSteps + rest;
      const Floats shifted = exact + all(kRoundingShift);
      const Floats rounded = shifted - all(kRoundingShift);
      rest = exact - rounded;
      sum += rounded;
      store_planes(bits_of(shifted), high + t, low + t);
    }
    for (; t < weights.tokens; t += kLanes) {
      store(high + t, Bytes{});
      store(low + t, Bytes{});
    }
    // The sum is of integers below 2^24: exact. A score that is not a number shows in `rest`.
    const float nan_or_zero = sum_of_lanes(rest) * 0.0f;
    weights.sum[row] = sum_of_lanes(sum) * (1.0f / kPlaneSteps) + nan_or_zero;
  }
}

}  // namespace vkv::VKV_ISA
