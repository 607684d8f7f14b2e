// The share of the CPU: both paths end together, whatever they and their rates do.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/share_planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

namespace vkv {
namespace {

constexpr uint64_t kBytes = uint64_t{64} << 20;
constexpr double kLink = 50e9;
constexpr double kBegin = 40e-6;  // of the CPU, however little it has to do
constexpr double kFlag = 2e-6;    // to read that the CPU is done, however long ago

// What a call would take.
ShareTiming call(uint64_t host_bytes, uint64_t device_bytes, double host_rate, double link_rate) {
  ShareTiming timing{.host_bytes = host_bytes, .device_bytes = device_bytes};
  timing.host_seconds = kBegin + static_cast<double>(host_bytes) / host_rate;
  timing.device_seconds = static_cast<double>(device_bytes) / link_rate;
  timing.wait_seconds = std::max(kFlag, timing.host_seconds - timing.device_seconds);
  return timing;
}

// Calls as a step queues them: each is measured eight calls later. Returns the mean time of the
// last hundred.
double settled(SharePlanner& planner, double host_rate, double link_rate, uint64_t bytes) {
  std::deque<ShareTiming> under_way;
  double sum = 0;
  for (int i = 0; i < 500; ++i) {
    const uint64_t host = planner.host_bytes(bytes);
    under_way.push_back(call(host, bytes - host, host_rate, link_rate));
    if (i >= 400) sum += under_way.back().device_seconds + under_way.back().wait_seconds;
    if (under_way.size() <= 8) continue;
    planner.add(under_way.front());
    under_way.pop_front();
  }
  return sum / 100;
}

TEST(SharePlanner, both_paths_end_together) {
  for (const double host_rate : {10e9, 50e9, 150e9, 400e9}) {
    SharePlanner planner(-1);
    const double seconds = settled(planner, host_rate, kLink, kBytes);
    const double best = (static_cast<double>(kBytes) + kBegin * host_rate) / (host_rate + kLink);
    EXPECT_LT(seconds, 1.02 * best) << host_rate;
    EXPECT_GT(seconds, 0.99 * best) << host_rate;
    CacheStats stats;
    planner.report(stats);
    EXPECT_NEAR(stats.link_read_rate, kLink, 0.01 * kLink);
  }
}

// A call that is too short for the CPU to begin in time costs what the CPU then takes for its two
// hundredths, at most.
TEST(SharePlanner, is_not_slower_than_the_gpu_alone_where_there_is_much_to_do) {
  for (const uint64_t bytes : {uint64_t{4} << 20, uint64_t{16} << 20, kBytes})
    for (const double host_rate : {2e9, 5e9, 100e9}) {
      SharePlanner planner(-1);
      const double alone = static_cast<double>(bytes) / kLink;
      EXPECT_LT(settled(planner, host_rate, kLink, bytes), 1.03 * alone)
          << bytes << " " << host_rate;
    }
}

TEST(SharePlanner, a_path_that_slows_down_gets_less) {
  SharePlanner planner(-1);
  (void)settled(planner, 100e9, kLink, kBytes);
  const auto before = static_cast<double>(planner.host_bytes(kBytes));
  EXPECT_NEAR(before / kBytes, 2.0 / 3, 0.05);
  (void)settled(planner, 10e9, kLink, kBytes);
  EXPECT_LT(static_cast<double>(planner.host_bytes(kBytes)), before / 3);
  (void)settled(planner, 10e9, 2e9, kBytes);
  EXPECT_GT(static_cast<double>(planner.host_bytes(kBytes)), before);
}

// One call in twenty waits for 20 ms: usual calls gain, all together lose.
TEST(SharePlanner, rare_long_waits_end_in_the_gpu_alone_until_they_are_over) {
  const auto mean_of = [](SharePlanner& planner, int calls, bool disturbed) {
    double sum = 0;
    for (int i = 0; i < calls; ++i) {
      const uint64_t host = planner.host_bytes(kBytes);
      ShareTiming timing = call(host, kBytes - host, 100e9, kLink);
      if (host == 0) timing.wait_seconds = 0;
      if (host > 0 && disturbed && i % 20 == 0) timing.wait_seconds += 20e-3;
      sum += timing.device_seconds + timing.wait_seconds;
      if (host > 0) planner.add(timing);
    }
    return sum / calls;
  };
  SharePlanner planner(-1);
  const double alone = static_cast<double>(kBytes) / kLink;
  EXPECT_LT(mean_of(planner, 5000, false), 0.5 * alone);
  EXPECT_LT(mean_of(planner, 100'000, true), 1.03 * alone);
  (void)mean_of(planner, 40'000, false);
  EXPECT_LT(mean_of(planner, 5000, false), 0.5 * alone);
}

TEST(SharePlanner, a_fraction_is_what_was_asked_for) {
  for (const double fraction : {0.0, 0.25, 1.0}) {
    SharePlanner planner(fraction);
    planner.add(call(kBytes, kBytes, 1e9, kLink));
    EXPECT_EQ(planner.host_bytes(1000), static_cast<uint64_t>(1000 * fraction));
    CacheStats stats;
    planner.report(stats);
    EXPECT_EQ(stats.host_read_rate, static_cast<double>(kBytes) / (kBegin + kBytes / 1e9));
  }
}

TEST(SharePlanner, a_little_is_left_to_the_gpu) {
  SharePlanner planner(-1);
  EXPECT_EQ(planner.host_bytes(1000), 0u);
  EXPECT_GT(planner.host_bytes(kBytes), 0u);
}

}  // namespace
}  // namespace vkv
