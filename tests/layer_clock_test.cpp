// A layer's turn is as far away as the layers before it took lately.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/layer_clock.h"

#include <gtest/gtest.h>

namespace vkv {
namespace {

using std::chrono::milliseconds;

TEST(layer_clock, a_turn_is_as_many_layers_away_as_come_before_it) {
  LayerClock clock(4);
  LayerClock::Time now{};
  for (int step = 0; step < 3; ++step)
    for (int layer = 0; layer < 4; ++layer) clock.tell(layer, now += milliseconds(10));
  clock.tell(3, now + milliseconds(5));  // still the same
  EXPECT_EQ(clock.turn_of(3), now);
  EXPECT_EQ(clock.turn_of(0), now + milliseconds(10));
  EXPECT_EQ(clock.turn_of(2), now + milliseconds(30));
}

TEST(layer_clock, what_layers_take_is_followed_and_a_pause_is_not) {
  LayerClock clock(2);
  LayerClock::Time now{};
  for (int i = 0; i < 10; ++i) clock.tell(i % 2, now += milliseconds(10));
  clock.tell(0, now += std::chrono::hours(1));  // nobody asked anything
  EXPECT_LE(clock.turn_of(1), now + milliseconds(18));
  for (int i = 1; i < 60; ++i) clock.tell(i % 2, now += milliseconds(20));
  EXPECT_GT(clock.turn_of(0), now + milliseconds(19));
  EXPECT_LT(clock.turn_of(0), now + milliseconds(21));
}

TEST(layer_clock, before_anything_is_known_every_turn_is_now) {
  LayerClock clock(3);
  const LayerClock::Time now = LayerClock::Time{} + milliseconds(7);
  clock.tell(1, now);
  for (const int layer : {0, 1, 2}) EXPECT_EQ(clock.turn_of(layer), now);
}

}  // namespace
}  // namespace vkv
