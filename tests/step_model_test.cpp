// The least time of a step: sums that a hand can check, and bytes that a cache has.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/step_model.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include "tests/cache_driver.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

constexpr uint64_t kGB = 1'000'000'000;

TEST(StepModel, all_in_hbm_takes_its_bytes_at_its_speed) {
  const StepEstimate estimate = estimate_step({.weights = 14 * kGB, .hbm_kv = kGB}, {.hbm = 3e12});
  EXPECT_DOUBLE_EQ(estimate.seconds, 5e-3);
  EXPECT_EQ(estimate.bound, StepBound::kHbm);
  EXPECT_EQ(estimate.ahead_bytes + estimate.link_bytes + estimate.host_bytes, 0u);
}

TEST(StepModel, what_the_link_brings_meanwhile_costs_nothing) {
  const ReadSpeeds speeds{.hbm = 3e12, .link = 50e9, .host = 30e9};
  const StepEstimate just = estimate_step({.weights = 15 * kGB, .dram_kv = kGB / 4}, speeds);
  EXPECT_DOUBLE_EQ(just.seconds, 5e-3);
  EXPECT_EQ(just.ahead_bytes, kGB / 4);
  EXPECT_EQ(just.bound, StepBound::kHbm);
}

TEST(StepModel, the_rest_is_read_by_the_link_and_the_cpu_together) {
  const StepBytes bytes{.weights = 15 * kGB, .dram_kv = kGB / 4 + 2 * kGB};
  const StepEstimate link = estimate_step(bytes, {.hbm = 3e12, .link = 50e9});
  EXPECT_DOUBLE_EQ(link.seconds, 5e-3 + 40e-3);
  EXPECT_EQ(link.bound, StepBound::kLink);
  EXPECT_EQ(link.link_bytes, 2 * kGB);
  const StepEstimate both = estimate_step(bytes, {.hbm = 3e12, .link = 50e9, .host = 30e9});
  EXPECT_DOUBLE_EQ(both.seconds, 5e-3 + 25e-3);
  EXPECT_EQ(both.bound, StepBound::kBoth);
  EXPECT_EQ(both.host_bytes, kGB * 3 / 4);
  EXPECT_EQ(both.ahead_bytes + both.link_bytes + both.host_bytes, bytes.dram_kv);
}

// Against a cache that was filled with so many tokens.
TEST(StepModel, bytes_are_those_of_a_cache) {
  const KvShape shape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 128};
  for (const std::string_view preset : {"exact", "safe", "balanced", "visual2", "visual1"}) {
    const CacheOptions options{.shape = shape,
                               .precision = precision_preset(preset).value(),
                               .dram_bytes_max = uint64_t{256} << 20};
    auto cache = Cache::open(options);
    ASSERT_TRUE(cache.ok());
    const SequenceId sequence = cache.value()->create_sequence().value();
    constexpr int kText = 256, kVisual = 8192, kAll = kText + kVisual;
    std::vector<Role> roles(kText, Role::kText);
    roles.resize(kAll, Role::kVisual);
    std::vector<float> out(static_cast<size_t>(kAll) * 4 * 128);
    for (int layer = 0; layer < shape.layers; ++layer) {
      const auto k = synthetic(shape, 2, layer, 0, kAll, 1),
                 v = synthetic(shape, 2, layer, 0, kAll, 2);
      const auto q = synthetic(shape, 4, layer, 0, 1, 3);
      ASSERT_TRUE(cache.value()->append(layer, {sequence, kAll, k.data(), v.data(), roles}).ok());
      const AttendRequest request{sequence, 1, q.data(), out.data(), /*ends_window=*/true};
      ASSERT_TRUE(cache.value()->attend(layer, {&request, 1}).ok());
    }
    const SequenceStats stats = cache.value()->sequence_stats(sequence).value();
    double stored = 0;
    for (const RoleStats& role : stats.role) stored += static_cast<double>(role.stored_bits) / 8;
    const SequenceBytes estimate =
        estimate_bytes(shape, options.precision, options.recent_tokens, kAll, kVisual);
    EXPECT_NEAR(static_cast<double>(estimate.blocks + estimate.open), stored, 0.05 * stored)
        << preset;
    EXPECT_NEAR(estimate.bits_per_visual_value,
                stats.role[static_cast<size_t>(Role::kVisual)].bits_per_value(),
                0.1 * estimate.bits_per_visual_value + 0.3)
        << preset;
  }
}

TEST(StepModel, nothing_takes_nothing) {
  const KvShape shape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 128};
  const SequenceBytes none = estimate_bytes(shape, precision_preset("exact").value(), 128, 0, 0);
  EXPECT_EQ(none.blocks, 0u);
  EXPECT_EQ(none.open, 0u);
}

}  // namespace
}  // namespace vkv
