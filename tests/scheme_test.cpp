// scheme_test.cpp: published schemes on tensors whose codes can be worked out by hand.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/scheme.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace vkv {
namespace {

using Values = std::vector<float>;

// Two channels over four tokens; values are exact in fp16.
const SegmentShape kSmall = {.rows = 4, .kv_heads = 1, .head_dim = 2};
const Values kTwoChannels = {0, -8, 1, 0, 2, 8, 3, 16};

TEST(scheme, abs_max_has_one_scale_for_the_tensor) {
  Values k = {7, -3.4f, 0.6f, 0.4f, 1, 2, -7, 5.5f};
  const double bits = round_trip_k({.kind = SchemeKind::kAbsMax}, kSmall, k.data());
  EXPECT_EQ(k, (Values{7, -3, 1, 0, 1, 2, -7, 6}));  // scale 1
  EXPECT_EQ(bits, 8 * 4 + 32);
  Values zero(8, 0.0f);
  round_trip_k({.kind = SchemeKind::kAbsMax}, kSmall, zero.data());
  EXPECT_EQ(zero, Values(8, 0.0f));
}

TEST(scheme, kivi_takes_k_by_channel) {
  Values k = kTwoChannels;
  const double bits = round_trip_k({.kind = SchemeKind::kKivi, .bits = 2}, kSmall, k.data());
  EXPECT_EQ(k, kTwoChannels);  // 0 1 2 3 and -8 0 8 16 are four levels each
  EXPECT_EQ(bits, 8 * 2 + 2 * 32);
}

TEST(scheme, kivi_groups_are_32_tokens_of_k_and_32_channels_of_v) {
  const SegmentShape shape = {.rows = 40, .kv_heads = 1, .head_dim = 64};
  Values k(shape.values()), v(shape.values());
  for (int t = 0; t < 40; ++t)
    for (int c = 0; c < 64; ++c) {
      const auto at = static_cast<size_t>(t * 64 + c);
      k[at] = static_cast<float>(t % 2) + (t < 32 ? 0.0f : 1000.0f);
      v[at] = static_cast<float>(c % 2) + (c < 32 ? 0.0f : 1000.0f);
    }
  const Values given_k = k, given_v = v;
  const Scheme scheme = {.kind = SchemeKind::kKivi, .bits = 2};
  EXPECT_EQ(round_trip_k(scheme, shape, k.data()), 40 * 64 * 2 + 2 * 64 * 32);
  EXPECT_EQ(round_trip_v(scheme, shape, v.data()), 40 * 64 * 2 + 40 * 2 * 32);
  for (size_t i = 0; i < k.size(); ++i) {
    EXPECT_NEAR(k[i], given_k[i], 1e-3f);  // 1/3 is no fp16 value
    EXPECT_NEAR(v[i], given_v[i], 1e-3f);
  }
}

TEST(scheme, quantile_without_clipping_is_min_max_by_channel_over_the_segment) {
  Values k = kTwoChannels;
  const Scheme scheme = {.kind = SchemeKind::kQuantile, .bits = 1};
  EXPECT_EQ(round_trip_k(scheme, kSmall, k.data()), 8 * 1 + 2 * 32);
  EXPECT_EQ(k, (Values{0, -8, 0, -8, 3, 16, 3, 16}));
}

TEST(scheme, quantile_clips_what_stands_out) {
  const SegmentShape shape = {.rows = 101, .kv_heads = 1, .head_dim = 1};
  Values k(101);
  for (int t = 0; t < 101; ++t) k[static_cast<size_t>(t)] = static_cast<float>(t);
  k[100] = 1e4f;
  round_trip_k({.kind = SchemeKind::kQuantile, .bits = 1, .tau = 0.25}, shape, k.data());
  EXPECT_EQ(std::set<float>(k.begin(), k.end()), (std::set<float>{25, 75}));
}

TEST(scheme, calibquant_shrinks_the_range_about_zero_with_its_own_factor_for_v) {
  const Scheme scheme = {
      .kind = SchemeKind::kCalibQuant, .bits = 1, .kappa_k = 0.5, .kappa_v = 0.25};
  Values k = kTwoChannels, v = kTwoChannels;
  EXPECT_EQ(round_trip_k(scheme, kSmall, k.data()), 8 * 1 + 2 * 32);
  EXPECT_EQ(k, (Values{0, -4, 1.5f, -4, 1.5f, 8, 1.5f, 8}));
  round_trip_v(scheme, kSmall, v.data());
  EXPECT_EQ(v[1], -2);
  EXPECT_EQ(v[7], 4);
}

TEST(scheme, a_constant_channel_stays_as_it_is) {
  for (const SchemeKind kind :
       {SchemeKind::kKivi, SchemeKind::kQuantile, SchemeKind::kCalibQuant}) {
    Values k(8, 5.0f), v(8, 5.0f);
    const Scheme scheme = {.kind = kind, .bits = 2, .tau = 0.1, .kappa_k = 0.5, .kappa_v = 0.5};
    round_trip_k(scheme, kSmall, k.data());
    round_trip_v(scheme, kSmall, v.data());
    EXPECT_EQ(k, Values(8, 5.0f));
    EXPECT_EQ(v, Values(8, 5.0f));
  }
}

}  // namespace
}  // namespace vkv
