// Precision classes: text first, then the visual tokens that are looked at most, up to the budget.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/precision.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace vkv {
namespace {

PrecisionPolicy preset(std::string_view name) {
  Result<PrecisionPolicy> policy = precision_preset(name);
  EXPECT_TRUE(policy.ok());
  return policy.value();
}

size_t count(const std::vector<TokenClass>& classes, TokenClass wanted) {
  return static_cast<size_t>(std::count(classes.begin(), classes.end(), wanted));
}

TEST(precision, every_preset_is_found_by_its_name_and_gives_k_no_fewer_bits_than_v) {
  EXPECT_EQ(precision_preset_names().size(), 7u);
  for (std::string_view name : precision_preset_names()) {
    const PrecisionPolicy policy = preset(name);
    EXPECT_EQ(policy.name, name);
    EXPECT_GE(bits_of(policy.high.k), bits_of(policy.high.v));
    EXPECT_GE(bits_of(policy.low.k), bits_of(policy.low.v));
  }
}

TEST(precision, an_unknown_preset_is_refused_with_the_names_there_are) {
  const Status status = precision_preset("visual9").status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("'visual9'"), std::string::npos);
  EXPECT_NE(status.message().find("visual2"), std::string::npos);
}

TEST(precision, text_and_control_are_high_even_beyond_the_budget) {
  const std::vector<Role> roles(50, Role::kText);
  const std::vector<uint8_t> is_sink(50, 0);
  const std::vector<float> saliency(50, 0.0f);
  PrecisionCounts counts;
  const auto classes = classify(
      preset("visual2"),
      {.token_count = 50, .roles = roles, .is_sink = is_sink, .saliency = saliency}, counts);
  EXPECT_EQ(count(classes, TokenClass::kHigh), 50u);
  EXPECT_EQ(counts.other, 50u);
}

TEST(precision, the_most_salient_visual_tokens_fill_the_budget) {
  std::vector<Role> roles(100, Role::kVisual);
  roles[0] = roles[1] = Role::kText;
  const std::vector<uint8_t> is_sink(100, 0);
  std::vector<float> saliency(100);
  for (size_t i = 0; i < saliency.size(); ++i) saliency[i] = static_cast<float>(i * 37 % 100);
  PrecisionCounts counts;
  const auto classes = classify(
      preset("visual2"),
      {.token_count = 100, .roles = roles, .is_sink = is_sink, .saliency = saliency}, counts);
  // 10 % of 100, less the two text tokens: 8 visual tokens, those of saliency above 91 that are
  // not text themselves.
  EXPECT_EQ(counts.visual_high, 8u);
  for (size_t i = 2; i < 100; ++i)
    EXPECT_EQ(classes[i] == TokenClass::kHigh, saliency[i] > 91) << i;
}

TEST(precision, the_budget_is_shared_by_all_windows_of_a_sequence) {
  const std::vector<Role> roles(100, Role::kVisual);
  const std::vector<uint8_t> is_sink(100, 0);
  const std::vector<float> saliency(100, 1.0f);
  PrecisionCounts counts;
  for (uint64_t window = 1; window <= 5; ++window) {
    const auto classes = classify(
        preset("onebit"),
        {.token_count = 100 * window, .roles = roles, .is_sink = is_sink, .saliency = saliency},
        counts);
    EXPECT_EQ(counts.visual_high, 3 * window);
    EXPECT_EQ(classes[0], TokenClass::kHigh) << "of equally salient tokens the earlier wins";
  }
}

TEST(precision, presets_of_one_width_tell_text_apart_but_no_visual_tokens) {
  const std::vector<Role> roles = {Role::kText, Role::kVisual, Role::kControl};
  const std::vector<uint8_t> is_sink(3, 0);
  for (std::string_view name : {"exact", "safe", "balanced"}) {
    PrecisionCounts counts;
    const auto classes =
        classify(preset(name), {.token_count = 3, .roles = roles, .is_sink = is_sink}, counts);
    EXPECT_EQ(count(classes, TokenClass::kLow), name == "exact" ? 3u : 1u) << name;
    EXPECT_EQ(classes[1], TokenClass::kLow) << name;
    EXPECT_FALSE(uses_saliency(preset(name), 0)) << name;
    EXPECT_EQ(preset(name).high.v_per_token, name != "exact") << name;
  }
}

TEST(precision, a_key_far_from_all_others_is_a_sink_and_few_can_be) {
  std::vector<float> distances(200, 1.0f);  // [100, 2]
  distances[2 * 17 + 1] = 4000.0f;
  std::vector<uint8_t> is_sink(100, 0);
  mark_far_keys(distances, 2, 6.0, is_sink);
  EXPECT_EQ(std::count(is_sink.begin(), is_sink.end(), 1), 1);
  EXPECT_EQ(is_sink[17], 1);

  for (size_t i = 0; i < 10; ++i) distances[2 * i] = 1e6f;
  std::fill(is_sink.begin(), is_sink.end(), uint8_t{0});
  mark_far_keys(distances, 2, 2.0, is_sink);
  EXPECT_LE(std::count(is_sink.begin(), is_sink.end(), 1), 1) << "at most 1 %";
}

TEST(precision, a_layer_with_an_override_is_classified_by_its_own_pairs) {
  PrecisionPolicy policy = preset("exact");  // one pair for all: nothing to tell apart
  policy.layers = {{.layer = 1, .high = {Codec::kI8, Codec::kI8}, .low = policy.low}};
  const std::vector<Role> roles(40, Role::kText);
  const std::vector<uint8_t> is_sink(40, 0);
  const std::vector<float> saliency(40, 0.0f);
  for (const int layer : {0, 1}) {
    PrecisionCounts counts;
    const auto classes = classify(policy,
                                  {.layer = layer,
                                   .token_count = 40,
                                   .roles = roles,
                                   .is_sink = is_sink,
                                   .saliency = saliency},
                                  counts);
    EXPECT_EQ(count(classes, TokenClass::kHigh), layer == 1 ? 40u : 0u);
  }
  EXPECT_TRUE(uses_saliency(policy, 1));
  EXPECT_FALSE(uses_saliency(policy, 0));
}

TEST(precision, fields_out_of_range_are_refused_by_name) {
  const auto refused = [](const PrecisionPolicy& policy, const char* words) {
    const Status status = validate(policy);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << words;
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
  };
  const PrecisionPolicy good = preset("visual2");
  EXPECT_TRUE(validate(good).ok());
  PrecisionPolicy bad = good;
  bad.high_fraction = -0.1;
  refused(bad, "high_fraction");
  bad = good, bad.visual_high_fraction_max = NAN;
  refused(bad, "visual_high_fraction_max");
  bad = good, bad.sink_tokens = -1;
  refused(bad, "sink_tokens");
  bad = good, bad.sink_sigmas = INFINITY;
  refused(bad, "sink_sigmas");
  bad = good, bad.layers = {{.layer = -1}};
  refused(bad, "layers count from 0");
  bad = good, bad.layers = {{.layer = 2}, {.layer = 2}};
  refused(bad, "layer 2 stands twice");
  bad = good, bad.layers = {{.layer = 2, .low = {Codec::kI1, Codec::kI2}}};
  refused(bad, "layer 2 low gives K fewer bits");
}

}  // namespace
}  // namespace vkv
