// lse_test: merging partial attention; any split of the tokens gives the unsplit answer.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/lse.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace vkv {
namespace {

constexpr float kEmpty = -INFINITY;

TEST(lse, an_empty_set_changes_nothing) {
  const MergeWeights weights = merge_weights(1.5f, kEmpty);
  EXPECT_EQ(weights.a, 1.0f);
  EXPECT_EQ(weights.b, 0.0f);
  EXPECT_EQ(weights.lse, 1.5f);
}

TEST(lse, an_empty_set_on_the_left_changes_nothing) {
  const MergeWeights weights = merge_weights(kEmpty, -3.0f);
  EXPECT_EQ(weights.a, 0.0f);
  EXPECT_EQ(weights.b, 1.0f);
  EXPECT_EQ(weights.lse, -3.0f);
}

TEST(lse, two_empty_sets_are_an_empty_set) {
  const MergeWeights weights = merge_weights(kEmpty, kEmpty);
  EXPECT_EQ(weights.a, 0.0f);
  EXPECT_EQ(weights.b, 0.0f);
  EXPECT_EQ(weights.lse, kEmpty);
}

TEST(lse, equal_sets_weigh_the_same) {
  const MergeWeights weights = merge_weights(2.0f, 2.0f);
  EXPECT_EQ(weights.a, 0.5f);
  EXPECT_EQ(weights.b, 0.5f);
  EXPECT_FLOAT_EQ(weights.lse, 2.0f + std::log(2.0f));
}

TEST(lse, huge_scores_neither_overflow_nor_vanish) {
  for (const float large : {1e4f, -1e4f, 3e38f, -3e38f}) {
    const MergeWeights weights = merge_weights(large, large);
    EXPECT_EQ(weights.a, 0.5f);
    EXPECT_TRUE(std::isfinite(weights.lse));
  }
  EXPECT_EQ(merge_weights(1e4f, -1e4f).b, 0.0f);
}

TEST(lse, any_partition_merged_in_any_order_is_the_whole) {
  std::mt19937 random(20240601);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 50; ++round) {
    const int token_count = 1 + static_cast<int>(random() % 60);
    std::vector<double> scores, values;
    for (int t = 0; t < token_count; ++t) {
      scores.push_back(5.0 * normal(random));
      values.push_back(normal(random));
    }
    double sum = 0, weighted = 0;
    for (int t = 0; t < token_count; ++t) {
      sum += std::exp(scores[t]);
      weighted += std::exp(scores[t]) * values[t];
    }

    float out = 0, lse = kEmpty;
    for (int begin = 0; begin < token_count;) {
      const int end = std::min(token_count, begin + static_cast<int>(random() % 9));
      double part_sum = 0, part_weighted = 0;
      for (int t = begin; t < end; ++t) {
        part_sum += std::exp(scores[t]);
        part_weighted += std::exp(scores[t]) * values[t];
      }
      const float part_out = end == begin ? 0.0f : static_cast<float>(part_weighted / part_sum);
      const MergeWeights weights = merge_weights(lse, static_cast<float>(std::log(part_sum)));
      out = weights.a * out + weights.b * part_out;
      lse = weights.lse;
      begin = end;
    }
    EXPECT_NEAR(out, weighted / sum, 1e-5);
    EXPECT_NEAR(lse, std::log(sum), 1e-5 * (1 + std::abs(std::log(sum))));
  }
}

}  // namespace
}  // namespace vkv
