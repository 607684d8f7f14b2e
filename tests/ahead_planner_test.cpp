// What is read ahead: what the link moves in the time that it has.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/ahead_planner.h"

#include <gtest/gtest.h>

namespace vkv {
namespace {

constexpr uint64_t kRoom = uint64_t{32} << 20;
constexpr double kLink = 50e9;

// Steps of three layers, the last of which is followed by more time.
void run_steps(AheadPlanner& planner, int steps, double free_seconds, double link) {
  for (int step = 0; step < steps; ++step)
    for (int layer = 0; layer < 3; ++layer) {
      const uint64_t bytes = planner.bytes(layer, kRoom);
      planner.add(layer, {.byte_count = bytes,
                          .copy_seconds = static_cast<double>(bytes) / link,
                          .free_seconds = layer == 0 ? 2 * free_seconds : free_seconds});
    }
}

TEST(AheadPlanner, reads_what_the_link_moves_in_the_free_time_of_each_layer) {
  AheadPlanner planner(3);
  EXPECT_GT(planner.bytes(0, kRoom), 0u);
  run_steps(planner, 100, 200e-6, kLink);
  EXPECT_NEAR(static_cast<double>(planner.bytes(1, kRoom)), 200e-6 * kLink, 1e4);
  EXPECT_NEAR(static_cast<double>(planner.bytes(2, kRoom)), 200e-6 * kLink, 1e4);
  EXPECT_NEAR(static_cast<double>(planner.bytes(0, kRoom)), 400e-6 * kLink, 1e4);
  run_steps(planner, 100, 200e-6, kLink / 4);
  EXPECT_NEAR(static_cast<double>(planner.bytes(1, kRoom)), 200e-6 * kLink / 4, 1e4);
}

TEST(AheadPlanner, never_more_than_there_is_room_for_nor_nothing) {
  AheadPlanner planner(3);
  run_steps(planner, 100, 5e-3, kLink);
  EXPECT_EQ(planner.bytes(1, kRoom), kRoom);
  EXPECT_EQ(planner.bytes(1, 1000), 1000u);
  run_steps(planner, 200, 1e-9, kLink);
  EXPECT_GT(planner.bytes(1, kRoom), 0u);
  EXPECT_LT(planner.bytes(1, kRoom), uint64_t{1} << 20);
}

TEST(AheadPlanner, a_caller_that_pauses_does_not_change_the_plan_for_long) {
  AheadPlanner planner(3);
  run_steps(planner, 100, 200e-6, kLink);
  const uint64_t before = planner.bytes(0, kRoom);
  planner.add(0, {.byte_count = 1 << 20, .copy_seconds = 20e-6, .free_seconds = 60});
  run_steps(planner, 40, 200e-6, kLink);
  EXPECT_NEAR(static_cast<double>(planner.bytes(0, kRoom)), static_cast<double>(before),
              0.1 * static_cast<double>(before));
}

TEST(AheadPlanner, what_was_not_measured_changes_nothing) {
  AheadPlanner planner(1);
  const uint64_t before = planner.bytes(0, kRoom);
  planner.add(0, {.byte_count = 0, .copy_seconds = 1, .free_seconds = 1});
  planner.add(0, {.byte_count = 100, .copy_seconds = 0, .free_seconds = 1});
  planner.add(0, {.byte_count = 100, .copy_seconds = 1, .free_seconds = -1});
  EXPECT_EQ(planner.bytes(0, kRoom), before);
}

}  // namespace
}  // namespace vkv
