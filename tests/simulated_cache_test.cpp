// simulated_cache_test.cpp: the simulator attends like the real cache, over what the real codecs
// give back, and encodes the tokens that the real cache encodes.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/simulated_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/cache_driver.h"
#include "tools/quality/configuration.h"
#include "tools/quality/metrics.h"

namespace vkv {
namespace {

constexpr KvShape kShape = {.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
constexpr int kRecent = 32;

std::unique_ptr<Cache> open(const std::string& name) {
  const Result<Configuration> configuration = parse_configuration(name);
  EXPECT_TRUE(configuration.ok()) << configuration.status().message();
  Result<std::unique_ptr<Cache>> cache =
      open_cache(configuration.value(), {.shape = kShape, .recent_tokens = kRecent, .threads = 1});
  EXPECT_TRUE(cache.ok()) << cache.status().message();
  return std::move(cache.value());
}

// A picture, a question, two steps; then a fork of it goes on. Outputs of everything but the
// picture's own window.
std::vector<float> play(Cache& cache, SequenceStats* stats = nullptr) {
  const SequenceId sequence = must_create(cache);
  must_feed(cache, sequence, 0, picture_prompt(1, 600, 3), true);
  std::vector<float> all = must_feed(cache, sequence, 604, picture_prompt(0, 0, 20), true);
  const auto fork = cache.fork(sequence);
  EXPECT_TRUE(fork.ok());
  for (int t = 624; t < 626; ++t) {
    const auto out = must_feed(cache, fork.value(), t, {Role::kText});
    all.insert(all.end(), out.begin(), out.end());
  }
  if (stats != nullptr) *stats = cache.sequence_stats(fork.value()).value();
  EXPECT_TRUE(cache.erase(fork.value()).ok());
  EXPECT_TRUE(cache.erase(sequence).ok());
  EXPECT_EQ(cache.stats().sequence_count, 0u);
  return all;
}

TEST(simulated_cache, our_codecs_give_what_the_real_cache_gives) {
  for (const char* name : {"exact", "i8", "i4", "i4/i2", "i2/i1", "i1+segment", "visual2",
                           "visual1", "onebit", "visual:i2", "i2+rotated", "visual:i4+pertoken"}) {
    SequenceStats real_stats, simulated_stats;
    const std::vector<float> real = play(*open(name), &real_stats);
    const std::vector<float> simulated = play(*open(std::string("sim:") + name), &simulated_stats);
    EXPECT_LT(relative_error(real, simulated), 2e-4) << name;
    for (size_t role = 0; role < kRoleCount; ++role) {
      const RoleStats& is = simulated_stats.role[role];
      const RoleStats& should = real_stats.role[role];
      EXPECT_EQ(is.value_count, should.value_count) << name << role;
      EXPECT_EQ(is.sealed_value_count, should.sealed_value_count) << name << role;
      EXPECT_EQ(is.high_value_count, should.high_value_count) << name << role;
      // The real cache also counts block tables and the padding of extents.
      EXPECT_LE(is.stored_bits, should.stored_bits) << name << role;
    }
  }
}

TEST(simulated_cache, baselines_encode_the_old_visual_tokens_and_nothing_else) {
  for (const char* name : {"absmax4", "kivi2", "quantile4:0.01", "calibquant1:0.5,0.3,0,3"}) {
    SequenceStats stats, ours;
    play(*open(name), &stats);
    play(*open("visual:i4"), &ours);
    const RoleStats& visual = stats.role[static_cast<size_t>(Role::kVisual)];
    EXPECT_EQ(visual.sealed_value_count,
              ours.role[static_cast<size_t>(Role::kVisual)].sealed_value_count);
    EXPECT_GT(visual.sealed_value_count, visual.value_count * 8 / 10);
    const RoleStats& text = stats.role[static_cast<size_t>(Role::kText)];
    EXPECT_EQ(text.stored_bits, 16 * text.value_count) << name;
  }
}

TEST(simulated_cache, bits_follow_the_formula_of_the_scheme) {
  // 603 old tokens of one segment but 4 sinks and those of the far keys; the question's window adds
  // another. Per channel over the segment: b + 32 bits / tokens.
  SequenceStats stats;
  play(*open("quantile2:0"), &stats);
  const RoleStats& visual = stats.role[static_cast<size_t>(Role::kVisual)];
  const double bits = static_cast<double>(visual.sealed_stored_bits) /
                      static_cast<double>(visual.sealed_value_count);
  EXPECT_GT(bits, 2 + 32.0 / 600);
  EXPECT_LT(bits, 2 + 2 * 32.0 / 500);
  play(*open("kivi2"), &stats);
  const RoleStats& kivi = stats.role[static_cast<size_t>(Role::kVisual)];
  EXPECT_NEAR(
      static_cast<double>(kivi.sealed_stored_bits) / static_cast<double>(kivi.sealed_value_count),
      3.0, 0.1);
}

TEST(simulated_cache, a_short_segment_keeps_to_the_levels_of_the_one_before) {
  // Of the 603 tokens, and none of the question's window; beside them the mean of K, half as much.
  SequenceStats stats;
  play(*open("sim:visual:i1+segment"), &stats);
  const RoleStats& visual = stats.role[static_cast<size_t>(Role::kVisual)];
  const double bits = static_cast<double>(visual.sealed_stored_bits) /
                      static_cast<double>(visual.sealed_value_count);
  EXPECT_GT(bits, 1 + (32.0 + 16.0) / 700);
  EXPECT_LT(bits, 1 + (32.0 + 16.0) / 500);
}

TEST(simulated_cache, fewer_bits_are_worse) {
  const std::vector<float> exact = play(*open("exact"));
  double last = 0;
  for (const char* name : {"kivi4", "kivi2", "quantile2:0", "quantile1:0"}) {
    const double error = relative_error(exact, play(*open(name)));
    EXPECT_GT(error, last) << name;
    last = error;
  }
}

TEST(simulated_cache, calibration_of_scores_flattens_them) {
  // tau2 takes from the greatest score what tau1 leaves at the least: 0 changes nothing.
  const std::vector<float> plain = play(*open("calibquant1:0.5,0.3,0,0"));
  const std::vector<float> flattened = play(*open("calibquant1:0.5,0.3,0,3"));
  EXPECT_EQ(plain, play(*open("calibquant1:0.5,0.3,0,0")));
  EXPECT_GT(relative_error(plain, flattened), 1e-3);
}

TEST(simulated_cache, lambda_of_one_changes_nothing_and_a_fitted_one_lies_below) {
  Configuration configuration = parse_configuration("lambda1").value();
  const CacheOptions options = {
      .shape = kShape, .precision = configuration.policy, .recent_tokens = kRecent};
  auto fitting = SimulatedCache::open(options, *configuration.scheme).value().release();
  const std::unique_ptr<SimulatedCache> owner(fitting);
  const std::vector<float> uncorrected = play(*fitting);
  const std::vector<float> fitted = fitting->lambda_fit().lambda();
  ASSERT_EQ(fitted.size(), 8u);
  for (const float lambda : fitted) {
    EXPECT_GT(lambda, 0.3f);
    EXPECT_LT(lambda, 1.3f);
  }
  Scheme scheme = *configuration.scheme;
  scheme.fits_lambda = false;
  scheme.lambda = std::make_shared<std::vector<float>>(8, 1.0f);
  const auto ones = SimulatedCache::open(options, scheme);
  EXPECT_LT(relative_error(uncorrected, play(*ones.value())), 1e-5);
  EXPECT_LT(relative_error(uncorrected, play(*open("sim:visual:i1+segment"))), 1e-5);
  scheme.lambda = std::make_shared<std::vector<float>>(3, 1.0f);
  EXPECT_FALSE(SimulatedCache::open(options, scheme).ok());
}

TEST(simulated_cache, drops_newest_tokens_and_refuses_what_does_not_exist) {
  const auto cache = open("kivi4");
  const SequenceId sequence = must_create(*cache);
  must_feed(*cache, sequence, 0, picture_prompt(1, 300, 0), true);
  const std::vector<float> first = must_feed(*cache, sequence, 301, {Role::kText, Role::kText});
  EXPECT_TRUE(cache->truncate(sequence, 2).ok());
  EXPECT_EQ(must_feed(*cache, sequence, 301, {Role::kText, Role::kText}), first);
  EXPECT_EQ(cache->truncate(sequence, 200).code(), Code::kUnsupported);
  EXPECT_EQ(cache->truncate(sequence, 1000).code(), Code::kInvalidArgument);
  EXPECT_EQ(cache->erase(SequenceId{99}).code(), Code::kNotFound);
  EXPECT_FALSE(cache->fork(SequenceId{99}).ok());
}

TEST(configuration, names_are_read_and_others_refused) {
  for (const char* name : {"exact", "onebit", "i8", "f16", "i4/i2", "visual:i1", "i1+segment",
                           "visual:i1+segment", "sim:visual2", "quantile1", "calibquant2"})
    EXPECT_TRUE(parse_configuration(name).ok()) << name;
  for (const char* name : {"",
                           "i3",
                           "i4/",
                           "/i4",
                           "i4/i2/i1",
                           "visual:",
                           "visual:exact",
                           "sim:kivi4",
                           "kivi3",
                           "quantile4:",
                           "quantile4:x",
                           "quantile4:0.5",
                           "quantile4:-1",
                           "quantile4:.1,.2",
                           "calibquant4",
                           "calibquant1:1",
                           "calibquant1:1,1,1,nan",
                           "i4+",
                           "exact+segment",
                           "i4+rotated",
                           "i2+segment+segment",
                           "i4+pertoken+segment",
                           "gone.json"}) {
    const auto result = parse_configuration(name);
    EXPECT_FALSE(result.ok()) << name;
  }
  EXPECT_TRUE(parse_configuration("quantile2").value().needs_calibration());
  EXPECT_EQ(parse_configuration("quantile2").value().candidates.size(), 6u);
  EXPECT_FALSE(parse_configuration("quantile2:.01").value().needs_calibration());
}

TEST(configuration, levels_are_spread_as_given_or_by_choice) {
  const Configuration given = parse_configuration("visual:i2/i1+rotated+spread:1.5,1.25").value();
  EXPECT_FALSE(given.needs_calibration());
  EXPECT_EQ(given.policy.low, (CodecPair{.k = Codec::kI2,
                                         .v = Codec::kI1,
                                         .k_rotated = true,
                                         .k_spread = 1.5f,
                                         .v_spread = 1.25f}));
  EXPECT_EQ(given.policy.high, CodecPair{});
  EXPECT_EQ(chosen_text(given), "spread 1.5 1.25, rotated");

  const Configuration open = parse_configuration("extreme+tuned").value();
  EXPECT_TRUE(open.needs_calibration());
  EXPECT_EQ(open.candidates.size(), 14u);  // half of them rotated
  for (const Configuration& candidate : open.candidates) {
    EXPECT_EQ(candidate.name, "extreme+tuned");
    EXPECT_EQ(candidate.policy.high.k_spread, 1.0f);  // i8 has no levels to move
  }
  EXPECT_EQ(parse_configuration("i1+spread:2").value().policy.high.v_spread, 2.0f);

  // A preset has spreads that nobody chose here; "+tuned" may keep them.
  const Configuration preset = parse_configuration("visual1").value();
  EXPECT_EQ(chosen_text(preset), "");
  const Configuration tuned = parse_configuration("visual1+tuned").value();
  EXPECT_EQ(tuned.candidates.size(), 15u);
  EXPECT_EQ(tuned.candidates.front().policy, preset.policy);
  EXPECT_EQ(parse_configuration("visual:i8/i2+tuned").value().candidates.size(), 4u);
  for (const char* name : {"i8+spread:1.5", "i1+spread:9", "i1+spread:x", "i1+spread:1,2,3",
                           "quantile1+tuned", "i8+tuned"})
    EXPECT_FALSE(parse_configuration(name).ok()) << name;
}

TEST(configuration, originals_are_kept_by_what_runs_in_the_real_cache) {
  EXPECT_EQ(parse_configuration("onebit").value().keep_original, KeepOriginal::kNone);
  EXPECT_EQ(parse_configuration("onebit+originals").value().keep_original, KeepOriginal::kDram);
  EXPECT_EQ(parse_configuration("i2+spread:1.5+originals").value().policy.low.k_spread, 1.5f);
  for (const char* name : {"onebit+tuned+originals", "onebit+originals+tuned"}) {
    const Configuration open = parse_configuration(name).value();
    EXPECT_EQ(open.name, name);
    EXPECT_EQ(open.candidates.size(), 14u);
    for (const Configuration& candidate : open.candidates) {
      EXPECT_EQ(candidate.name, name);
      EXPECT_EQ(candidate.keep_original, KeepOriginal::kDram);
    }
  }
  for (const char* name : {"kivi2+originals", "blank+originals", "sim:i4+originals",
                           "i4+originals+originals", "+originals"})
    EXPECT_FALSE(parse_configuration(name).ok()) << name;
}

TEST(configuration, lists_keep_numbers_together) {
  const auto list = parse_configurations("i8,calibquant1:.5,.3,0,3,quantile4:.1,kivi2");
  ASSERT_TRUE(list.ok()) << list.status().message();
  ASSERT_EQ(list.value().size(), 4u);
  EXPECT_EQ(list.value()[1].name, "calibquant1:.5,.3,0,3");
  EXPECT_EQ(chosen_text(list.value()[1]), "kappa 0.5 0.3, tau 0 3");
  EXPECT_FALSE(parse_configurations("i8,i8").ok());
  EXPECT_FALSE(parse_configurations("").ok());
  EXPECT_FALSE(parse_configurations("i8,,i4").ok());
}

}  // namespace
}  // namespace vkv
