// vision_attention_test.cpp: attention inside parts is what its formula says, in double precision,
// and does not depend on how much memory its scores may take.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/vision_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace vkv {
namespace {

// Part by part, query by query.
std::vector<float> reference(const VisionAttentionParams& of) {
  const int64_t width = of.heads * of.head_dim;
  std::vector<float> out(static_cast<size_t>(of.parts * of.positions * width));
  for (int64_t row = 0; row < of.parts * of.positions; ++row)
    for (int64_t head = 0; head < of.heads; ++head) {
      const int64_t begin = row / of.positions * of.positions, channel = head * of.head_dim;
      double sum = 0;
      std::vector<double> mean(static_cast<size_t>(of.head_dim));
      for (int64_t key = begin; key < begin + of.positions; ++key) {
        double score = 0;
        for (int64_t i = channel; i < channel + of.head_dim; ++i)
          score += double{of.q[row * of.stride + i]} * of.k[key * of.stride + i];
        const double weight = std::exp(score);
        sum += weight;
        for (int64_t i = 0; i < of.head_dim; ++i)
          mean[static_cast<size_t>(i)] += weight * of.v[key * of.stride + channel + i];
      }
      for (int64_t i = 0; i < of.head_dim; ++i)
        out[static_cast<size_t>(row * width + channel + i)] =
            static_cast<float>(mean[static_cast<size_t>(i)] / sum);
    }
  return out;
}

TEST(vision_attention, is_its_formula_however_few_scores_are_held) {
  for (const int64_t parts : {1, 3})
    for (const int64_t positions : {1, 2, 4, 37}) {
      constexpr int64_t kHeads = 3, kHeadDim = 20, kWidth = kHeads * kHeadDim;
      std::mt19937 random(7);
      std::normal_distribution<float> normal(0.0f, 0.5f);
      std::vector<float> qkv(static_cast<size_t>(parts * positions * 3 * kWidth));
      for (float& value : qkv) value = normal(random);
      std::vector<float> out(static_cast<size_t>(parts * positions * kWidth));
      VisionAttentionParams params = {.q = qkv.data(),
                                      .k = qkv.data() + kWidth,
                                      .v = qkv.data() + 2 * kWidth,
                                      .stride = 3 * kWidth,
                                      .out = out.data(),
                                      .parts = parts,
                                      .positions = positions,
                                      .heads = kHeads,
                                      .head_dim = kHeadDim};
      const std::vector<float> expected = reference(params);
      const int64_t one_part = kHeads * positions * positions;
      for (const int64_t scores_max :
           {kHeads * positions, 5 * kHeads * positions, one_part, 2 * one_part, int64_t{1} << 20}) {
        params.scores_max = scores_max;
        std::fill(out.begin(), out.end(), std::numeric_limits<float>::quiet_NaN());
        std::vector<float> scores;
        const Status status = vision_attention(params, scores);
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_LE(static_cast<int64_t>(scores.size()), scores_max);
        for (size_t i = 0; i < out.size(); ++i)
          ASSERT_NEAR(out[i], expected[i], 1e-5) << positions << " " << scores_max << " " << i;
      }
    }
}

}  // namespace
}  // namespace vkv
