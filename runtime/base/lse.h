// lse.h: merging attention computed over disjoint sets of tokens.
// SPDX-License-Identifier: Apache-2.0
//
// A partial result over a set S of tokens is
//   out = softmax(scores over S) * V,   lse = ln(sum over S of exp(score)).
// lse is always a natural logarithm. The empty set has out = 0 and lse = -inf.
//
// Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
#pragma once

#include <cmath>

#include "vkv/types.h"

namespace vkv {

struct MergeWeights {
  float a;  // out = a * out_a + b * out_b
  float b;
  float lse;  // of the union
};

// Never returns NaN for lse below +inf: two empty sets merge to weights 0 and lse -inf.
VKV_HD inline MergeWeights merge_weights(float lse_a, float lse_b) {
  const float lse_max = fmaxf(lse_a, lse_b);
  if (lse_max == -INFINITY) return {0.0f, 0.0f, -INFINITY};

  const float sum_a = expf(lse_a - lse_max);
  const float sum_b = expf(lse_b - lse_max);
  const float sum = sum_a + sum_b;
  return {sum_a / sum, sum_b / sum, lse_max + logf(sum)};
}

}  // namespace vkv
