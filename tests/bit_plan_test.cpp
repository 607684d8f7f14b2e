// bit_plan_test.cpp: the plan keeps the budget, and no other plan within it loses less.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bit_plan.h"

#include <gtest/gtest.h>

#include <random>

namespace vkv {
namespace {

constexpr int kHeadDim = 128;

std::vector<LayerChoice> random_choices(std::mt19937& random) {
  std::vector<LayerChoice> choices;
  for (const Codec k : {Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1})
    for (const Codec v : {Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1})
      if (bits_of(k) >= bits_of(v))
        choices.push_back({.codecs = {.k = k, .v = v},
                           .loss = std::uniform_real_distribution<double>(0, 1)(random)});
  return choices;
}

double bits_of_plan(const std::vector<CodecPair>& plan) {
  double bits = 0;
  for (const CodecPair& codecs : plan) bits += pair_bits(codecs, kHeadDim) / 2;
  return bits / static_cast<double>(plan.size());
}

double loss_of(const std::vector<LayerChoice>& choices, const CodecPair& codecs) {
  for (const LayerChoice& choice : choices)
    if (choice.codecs == codecs) return choice.loss;
  return 1e9;
}

TEST(bit_plan, pairs_are_counted_with_their_headers) {
  EXPECT_DOUBLE_EQ(pair_bits({.k = Codec::kI4, .v = Codec::kI2}, 128), 6.5);
  EXPECT_DOUBLE_EQ(pair_bits({.k = Codec::kI1, .v = Codec::kI1}, 64), 2.25);
  EXPECT_DOUBLE_EQ(pair_bits({.k = Codec::kF16, .v = Codec::kF16}, 128), 32.0);
}

TEST(bit_plan, it_is_as_good_as_the_best_of_all_plans) {
  std::mt19937 random(11);
  for (int round = 0; round < 20; ++round) {
    const std::vector<std::vector<LayerChoice>> layers = {
        random_choices(random), random_choices(random), random_choices(random)};
    const double bits_max = 1.3 + 0.4 * round;
    double best = 1e9;
    for (const LayerChoice& a : layers[0])
      for (const LayerChoice& b : layers[1])
        for (const LayerChoice& c : layers[2])
          if (bits_of_plan({a.codecs, b.codecs, c.codecs}) <= bits_max + 1e-9)
            best = std::min(best, a.loss + b.loss + c.loss);
    const auto plan = plan_bits(layers, kHeadDim, bits_max).value();
    EXPECT_LE(bits_of_plan(plan), bits_max + 1e-9);
    double loss = 0;
    for (size_t i = 0; i < 3; ++i) loss += loss_of(layers[i], plan[i]);
    EXPECT_NEAR(loss, best, 1e-12) << bits_max;
  }
}

TEST(bit_plan, a_budget_below_the_smallest_codecs_is_refused) {
  std::mt19937 random(12);
  const std::vector<std::vector<LayerChoice>> layers(2, random_choices(random));
  EXPECT_EQ(plan_bits(layers, kHeadDim, 1.2).status().code(), Code::kInvalidArgument);
  EXPECT_TRUE(plan_bits(layers, kHeadDim, 1.25).ok());
}

}  // namespace
}  // namespace vkv
