// plan_search_test.cpp: on losses that do not add up the search keeps the budget, is never worse
// than what it starts from, and comes close to the best of all plans with few measurements.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/plan_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tools/vkv/bit_plan.h"

namespace vkv {
namespace {

constexpr int kHeadDim = 64;

std::vector<CodecPair> all_pairs() {
  std::vector<CodecPair> pairs;
  for (const Codec k : {Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1})
    for (const Codec v : {Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1})
      if (bits_of(k) >= bits_of(v)) pairs.push_back({.k = k, .v = v});
  return pairs;
}

// A model whose layers matter more or less and make up for each other as long as few are bad: the
// loss is the square of what the layers lose together, and a hole in K makes that in V worse.
class Model {
 public:
  Model(size_t layer_count, uint32_t seed, double spread_best = 1) : spread_best_(spread_best) {
    std::mt19937 random(seed);
    for (size_t i = 0; i < 2 * layer_count; ++i)
      weights_.push_back(std::exp(std::normal_distribution<double>(0, 1)(random)));
  }

  double loss(const Plan& plan) const {
    double sum = 0;
    for (size_t i = 0; i < plan.size(); ++i) {
      const double k = weights_[2 * i] * error(plan[i].k, plan[i].k_spread);
      const double v = weights_[2 * i + 1] * error(plan[i].v, plan[i].v_spread) / 2;
      sum += k + v + 3 * k * v;
    }
    return sum * sum;
  }

  MeasurePlans measure() {
    return [this](std::span<const Plan> plans) -> Result<std::vector<double>> {
      std::vector<double> losses;
      for (const Plan& plan : plans) losses.push_back(loss(plan));
      measured_count_ += plans.size();
      return losses;
    };
  }
  size_t measured_count() const { return measured_count_; }

 private:
  double error(Codec codec, float spread) const {
    const double away = bits_of(codec) <= 4 ? spread - spread_best_ : 0;
    return std::exp2(-bits_of(codec)) * (1 + away * away);
  }

  double spread_best_;
  std::vector<double> weights_;
  size_t measured_count_ = 0;
};

PlanSearchOptions options(size_t layer_count, double bits_max) {
  PlanSearchOptions options{.head_dim = kHeadDim, .bits_max = bits_max, .pairs = all_pairs()};
  for (const CodecPair& pair : options.pairs)
    if (pair_bits(pair, kHeadDim) / 2 <= bits_max)
      options.starts.push_back(Plan(layer_count, pair));
  return options;
}

double best_of_starts(const PlanSearchOptions& options, const Model& model) {
  double best = INFINITY;
  for (const Plan& start : options.starts) best = std::min(best, model.loss(start));
  return best;
}

double best_of_all(const PlanSearchOptions& options, const Model& model) {
  double best = INFINITY;
  for (const CodecPair& a : options.pairs)
    for (const CodecPair& b : options.pairs)
      for (const CodecPair& c : options.pairs)
        if (plan_bits_mean({a, b, c}, kHeadDim) <= options.bits_max + 1e-9)
          best = std::min(best, model.loss({a, b, c}));
  return best;
}

TEST(plan_search, it_keeps_the_budget_and_is_close_to_the_best_of_all_plans) {
  double excess = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Model model(3, seed);
    const PlanSearchOptions given = options(3, 1.3 + 0.25 * seed);
    const FoundPlan found = search_plan(given, model.measure()).value();
    EXPECT_LE(plan_bits_mean(found.plan, kHeadDim), given.bits_max + 1e-9);
    EXPECT_DOUBLE_EQ(found.loss, model.loss(found.plan));
    EXPECT_LE(found.loss, best_of_starts(given, model)) << seed;
    EXPECT_LE(found.loss, 1.5 * best_of_all(given, model)) << seed;
    excess += found.loss / best_of_all(given, model) - 1;
    for (const CodecPair& pair : found.plan) EXPECT_GE(bits_of(pair.k), bits_of(pair.v));
  }
  EXPECT_LT(excess / 20, 0.05);
}

TEST(plan_search, it_usually_beats_every_uniform_pair_clearly) {
  int clearly = 0;
  for (uint32_t seed = 100; seed < 120; ++seed) {
    Model model(12, seed);
    const PlanSearchOptions given = options(12, 2.2);
    const FoundPlan found = search_plan(given, model.measure()).value();
    clearly += found.loss < 0.8 * best_of_starts(given, model) ? 1 : 0;
  }
  EXPECT_GE(clearly, 18);
}

TEST(plan_search, it_measures_few_of_the_many_plans_and_none_twice) {
  Model model(12, 7);
  const FoundPlan found = search_plan(options(12, 2.2), model.measure()).value();
  EXPECT_EQ(found.measured_count, model.measured_count());
  EXPECT_LT(found.measured_count, 500u);  // of 10^12
}

TEST(plan_search, spreads_of_layers_are_found_where_they_pay) {
  Model model(3, 3, 1.5);
  const FoundPlan found = search_plan(options(3, 2.2), model.measure()).value();
  EXPECT_LT(found.loss, model.loss(found.unspread));
  for (size_t layer = 0; layer < 3; ++layer)
    EXPECT_EQ(pair_bits(found.plan[layer], kHeadDim), pair_bits(found.unspread[layer], kHeadDim));
  Model plain(3, 3, 1);
  const FoundPlan same = search_plan(options(3, 2.2), plain.measure()).value();
  EXPECT_EQ(same.plan, same.unspread);
}

TEST(plan_search, a_step_that_only_pays_together_with_another_is_found) {
  // Nothing is gained before both layers have K of 2 bits.
  const MeasurePlans measure = [](std::span<const Plan> plans) -> Result<std::vector<double>> {
    std::vector<double> losses;
    for (const Plan& plan : plans)
      losses.push_back(bits_of(plan[0].k) > 1 && bits_of(plan[2].k) > 1 ? 0.1 : 1.0);
    return losses;
  };
  PlanSearchOptions given = options(3, 1.6);
  std::erase_if(given.starts, [](const Plan& plan) { return bits_of(plan[0].k) > 1; });
  EXPECT_LT(search_plan(given, measure).value().loss, 0.2);
}

TEST(plan_search, it_finds_the_same_again_and_hands_errors_on) {
  Model model(6, 5), again(6, 5);
  EXPECT_EQ(search_plan(options(6, 1.8), model.measure()).value().plan,
            search_plan(options(6, 1.8), again.measure()).value().plan);
  int calls = 0;
  const MeasurePlans stopped = [&](std::span<const Plan> plans) -> Result<std::vector<double>> {
    if (++calls == 3) return Status(Code::kCancelled, "stopped");
    return std::vector<double>(plans.size(), 1.0);
  };
  EXPECT_EQ(search_plan(options(6, 1.8), stopped).status().code(), Code::kCancelled);
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace vkv
