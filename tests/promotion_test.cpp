// promotion_test.cpp: with originals, a later question finds what nobody looked at before; the
// quality meter sees what encoding costs.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/cache_driver.h"

namespace vkv {
namespace {

constexpr KvShape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 64};

CacheOptions options_with(std::string_view preset_name, KeepOriginal keep) {
  return {.shape = kShape,
          .precision = precision_preset(preset_name).value(),
          .keep_original = keep,
          .recent_tokens = 32,
          .dram_bytes_max = uint64_t{64} << 20,
          .extent_bytes_max = 128 << 10};
}

// Media of 1,500 tokens, a question of 20, an answer of one token. Returns the answer's output.
std::vector<float> ask(Cache& cache, SequenceId media, uint32_t question) {
  const SequenceId sequence = cache.fork(media).value();
  must_feed(cache, sequence, 1500, picture_prompt(0, 0, 20), true, question);
  const auto out = must_feed(cache, sequence, 1520, picture_prompt(0, 0, 1), false, question);
  EXPECT_TRUE(cache.erase(sequence).ok());
  return out;
}

SequenceId media_in(Cache& cache) {
  const SequenceId media = must_create(cache);
  must_feed(cache, media, 0, picture_prompt(4, 1496, 0), true);
  return media;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - double{b[i]}, 2);
  return std::sqrt(sum);
}

// A question and an answer whose queries all point to the key of one token of the media. Returns
// the output of the answer's token.
std::vector<float> ask_for(Cache& cache, SequenceId media, int needle) {
  const SequenceId sequence = cache.fork(media).value();
  std::vector<float> answer;
  for (const int count : {20, 1}) {
    const bool question = count > 1;
    const std::vector<Role> roles(static_cast<size_t>(count), Role::kText);
    answer.clear();
    for (int layer = 0; layer < kShape.layers; ++layer) {
      const int first = question ? 1500 : 1520;
      const auto k = synthetic(kShape, 2, layer, first, count, 1);
      const auto v = synthetic(kShape, 2, layer, first, count, 2);
      const auto key = synthetic(kShape, 2, layer, needle, 1, 1);
      std::vector<float> q, out(static_cast<size_t>(count) * 4 * 64);
      for (int head = 0; head < count * 4; ++head)
        for (size_t c = 0; c < 64; ++c)
          q.push_back(key[static_cast<size_t>(head % 4 / 2) * 64 + c]);
      EXPECT_TRUE(cache.append(layer, {sequence, count, k.data(), v.data(), roles}).ok());
      const AttendRequest request{sequence, count, q.data(), out.data(), question};
      EXPECT_TRUE(cache.attend(layer, {&request, 1}).ok());
      answer.insert(answer.end(), out.begin(), out.end());
    }
  }
  EXPECT_TRUE(cache.erase(sequence).ok());
  return answer;
}

TEST(promotion, what_a_later_question_looks_at_is_answered_from_high_precision) {
  auto exact = must_open(options_with("exact", KeepOriginal::kNone));
  auto without = must_open(options_with("extreme", KeepOriginal::kNone));
  auto with = must_open(options_with("extreme", KeepOriginal::kDram));
  double error_without = 0, error_with = 0;
  const SequenceId a = media_in(*exact), b = media_in(*without), c = media_in(*with);
  for (const int needle : {100, 320, 555, 730, 900, 1050, 1200, 1390}) {
    const auto want = ask_for(*exact, a, needle);
    error_without += distance(ask_for(*without, b, needle), want);
    error_with += distance(ask_for(*with, c, needle), want);
  }
  std::cout << "distance from exact: " << error_without << " without originals, " << error_with
            << " with\n";
  EXPECT_LT(error_with, 0.2 * error_without);  // what is left comes from tokens not promoted
}

TEST(promotion, a_questions_own_queries_read_the_originals) {
  auto exact = must_open(options_with("exact", KeepOriginal::kNone));
  auto with = must_open(options_with("extreme", KeepOriginal::kDram));
  const SequenceId a = media_in(*exact), b = media_in(*with);
  const auto want = must_feed(*exact, a, 1500, picture_prompt(0, 0, 20), true);
  const auto got = must_feed(*with, b, 1500, picture_prompt(0, 0, 20), true);
  EXPECT_LT(distance(got, want), 1e-3 * distance(want, std::vector<float>(want.size())));
}

TEST(promotion, rotated_keys_and_values_per_token_are_stored_promoted_and_masked_alike) {
  auto exact = must_open(options_with("exact", KeepOriginal::kNone));
  const SequenceId a = media_in(*exact);
  const auto want = ask_for(*exact, a, 555);
  double error[2] = {};
  for (const KeepOriginal keep : {KeepOriginal::kNone, KeepOriginal::kDram}) {
    CacheOptions options = options_with("extreme", keep);
    options.precision.high.v_per_token = true;
    options.precision.low = {
        .k = Codec::kI2, .v = Codec::kI2, .k_rotated = true, .v_per_token = true};
    auto cache = must_open(options);
    const SequenceId media = media_in(*cache);
    error[keep == KeepOriginal::kDram] = distance(ask_for(*cache, media, 555), want);
    const RoleStats visual = cache->sequence_stats(media).value().role[1];
    EXPECT_EQ(visual.value_count, 1496u * kShape.layers * 2 * 2 * 64);
    EXPECT_EQ(visual.promoted_value_count > 0, keep == KeepOriginal::kDram);
  }
  std::cout << "distance from exact: " << error[0] << " without originals, " << error[1]
            << " with\n";
  EXPECT_LT(error[1], 0.2 * error[0]);
}

TEST(promotion, questions_do_not_disturb_each_other) {
  auto cache = must_open(options_with("extreme", KeepOriginal::kDram));
  const SequenceId media = media_in(*cache);
  const auto first = ask(*cache, media, 10);
  ask(*cache, media, 20);
  EXPECT_EQ(ask(*cache, media, 10), first);
  // The same holds for questions that stay side by side.
  const SequenceId one = cache->fork(media).value(), other = cache->fork(media).value();
  must_feed(*cache, one, 1500, picture_prompt(0, 0, 20), true, 10);
  must_feed(*cache, other, 1500, picture_prompt(0, 0, 20), true, 20);
  EXPECT_EQ(must_feed(*cache, one, 1520, picture_prompt(0, 0, 1), false, 10), first);
}

TEST(promotion, copies_and_originals_are_counted_and_the_budget_holds) {
  auto cache = must_open(options_with("onebit", KeepOriginal::kDram));
  const SequenceId media = media_in(*cache);
  must_feed(*cache, media, 1500, picture_prompt(0, 0, 20), true, 10);
  const SequenceStats stats = cache->sequence_stats(media).value();
  const RoleStats& visual = stats.role[static_cast<size_t>(Role::kVisual)];
  EXPECT_EQ(visual.value_count, 1496u * kShape.layers * 2 * 2 * 64);
  EXPECT_GT(visual.promoted_value_count, 0u);
  EXPECT_LE(static_cast<double>(visual.high_value_count),
            0.03 * static_cast<double>(visual.value_count));
  EXPECT_GE(visual.original_bits, 16 * (visual.sealed_value_count - visual.promoted_value_count));
  EXPECT_LT(visual.bits_per_value(), 2.5) << "originals are not among them";
  EXPECT_GE(cache->stats().tier[1].original_bytes, visual.original_bits / 8 * 9 / 10);
  uint64_t tokens = 0, bytes = 0, low = 0, originals = 0;
  for (const FormStats& form : stats.forms) {
    if (form.form == TokenForm::kOriginal) originals += form.token_count;
    if (form.form == TokenForm::kLow) low += form.token_count;
    if (form.form != TokenForm::kOriginal && form.form != TokenForm::kPromoted)
      tokens += form.token_count;
    if (form.form != TokenForm::kOriginal) bytes += form.byte_count;
  }
  EXPECT_EQ(tokens, 1520u * kShape.layers);
  EXPECT_EQ(originals, low);
  uint64_t bits = 0;
  for (const RoleStats& role : stats.role) bits += role.stored_bits;
  EXPECT_NEAR(static_cast<double>(bytes), static_cast<double>(bits) / 8, 6000) << "but for means";
}

TEST(promotion, originals_go_to_nvme_and_come_back_the_same) {
  auto dram = must_open(options_with("onebit", KeepOriginal::kDram));
  CacheOptions options = options_with("onebit", KeepOriginal::kNvme);
  options.nvme_bytes_max = uint64_t{64} << 20;
  options.store_path = store_path("promotion");
  auto nvme = must_open(options);
  const SequenceId a = media_in(*dram), b = media_in(*nvme);
  EXPECT_EQ(nvme->stats().tier[1].original_bytes, 0u);
  EXPECT_EQ(nvme->stats().tier[2].original_bytes, dram->stats().tier[1].original_bytes);
  EXPECT_EQ(ask(*nvme, b, 10), ask(*dram, a, 10));
}

TEST(promotion, originals_need_a_tier_to_lie_in) {
  const Status status = Cache::open(options_with("onebit", KeepOriginal::kNvme)).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("nvme budget"), std::string::npos) << status.message();
}

QualityStats measured(std::string_view preset, KeepOriginal keep, const QualityOptions& quality) {
  CacheOptions options = options_with(preset, keep);
  options.quality = quality;
  auto cache = must_open(options);
  const SequenceId media = media_in(*cache);
  must_feed(*cache, media, 1500, picture_prompt(0, 0, 20), true, 10);
  for (int step = 0; step < 10; ++step)
    must_feed(*cache, media, 1520 + step, picture_prompt(0, 0, 1), false, 10);
  return cache->stats().quality;
}

TEST(quality_meter, fewer_bits_are_a_larger_error_with_and_without_originals) {
  for (const KeepOriginal keep : {KeepOriginal::kNone, KeepOriginal::kDram}) {
    double previous = 0;
    for (const char* preset : {"safe", "balanced", "extreme"}) {
      const QualityStats quality = measured(preset, keep, {.sample_fraction = 1});
      std::cout << name(keep) << " " << preset << ": " << quality.error_mean << " mean, "
                << quality.error_max << " max of " << quality.error_count << "\n";
      EXPECT_GT(quality.error_mean, previous);
      EXPECT_GE(quality.error_max, quality.error_mean);
      EXPECT_EQ(quality.error_count, quality.sample_count * 4);
      previous = quality.error_mean;
    }
  }
}

TEST(quality_meter, nothing_is_lost_at_16_bit) {
  EXPECT_LT(measured("exact", KeepOriginal::kNone, {.sample_fraction = 1}).error_max, 1e-5);
}

TEST(quality_meter, it_samples_the_share_that_was_asked_for) {
  EXPECT_EQ(measured("extreme", KeepOriginal::kDram, {}).sample_count, 0u);
  const auto count = [](double fraction) {
    return measured("extreme", KeepOriginal::kDram, {.sample_fraction = fraction}).sample_count;
  };
  EXPECT_EQ(count(1), 20u) << "ten steps of two layers";
  EXPECT_GT(count(0.3), 2u);
  EXPECT_LT(count(0.3), 11u);
}

TEST(quality_meter, a_bound_counts_and_promotes) {
  const QualityOptions bound{.sample_fraction = 1, .error_bound = 0.01};
  const QualityStats warned = measured("extreme", KeepOriginal::kDram, bound);
  EXPECT_GT(warned.over_bound_count, 0u);
  EXPECT_EQ(warned.promotion_count, 0u);
  QualityOptions promote = bound;
  promote.action = QualityAction::kPromote;
  const QualityStats promoted = measured("extreme", KeepOriginal::kDram, promote);
  EXPECT_EQ(promoted.promotion_count, promoted.over_bound_count);
  promote.error_bound = 1e6;
  EXPECT_EQ(measured("extreme", KeepOriginal::kDram, promote).promotion_count, 0u);
}

TEST(quality_meter, options_out_of_range_are_refused_by_name) {
  CacheOptions options = options_with("extreme", KeepOriginal::kNone);
  options.quality.sample_fraction = 1.5;
  EXPECT_NE(Cache::open(options).status().message().find("sample_fraction"), std::string::npos);
  options.quality = {.error_bound = NAN};
  EXPECT_NE(Cache::open(options).status().message().find("error_bound"), std::string::npos);
  options.quality = {.action = QualityAction::kPromote};
  EXPECT_NE(Cache::open(options).status().message().find("keep_original"), std::string::npos);
}

}  // namespace
}  // namespace vkv
