// fp16 and bf16 conversion: every bit pattern survives, and rounding is that of the hardware.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace vkv {
namespace {

TEST(half, every_fp16_value_survives_the_round_trip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = f16_to_float(half);
    if (std::isnan(value)) {
      EXPECT_FALSE(is_finite_f16(half));
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(value))));
    } else {
      EXPECT_EQ(float_to_f16(value), half) << bits;
      EXPECT_EQ(is_finite_f16(half), std::isfinite(value));
    }
  }
}

TEST(half, every_bf16_value_survives_the_round_trip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = bf16_to_float(half);
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(value))));
    else
      EXPECT_EQ(float_to_bf16(value), half) << bits;
  }
}

// The nearest fp16 by search among the neighbours, ties to the even one.
uint16_t nearest_f16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  uint16_t low = 0, high = 0x7c00;  // positive patterns are ordered like their values
  while (low + 1 < high) {
    const uint16_t middle = static_cast<uint16_t>((low + high) / 2);
    (f16_to_float(middle) <= magnitude ? low : high) = middle;
  }
  const double below = f16_to_float(low);
  const double above = high == 0x7c00 ? 65536.0 : static_cast<double>(f16_to_float(high));
  const bool up = magnitude - below > above - magnitude ||
                  (magnitude - below == above - magnitude && low % 2 == 1);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

TEST(half, rounding_is_to_the_nearest_and_ties_are_to_even) {
  std::mt19937 random(7);
  std::uniform_int_distribution<uint32_t> any;
  for (int i = 0; i < 200000; ++i) {
    // Exponents from below the smallest subnormal to above the largest value.
    const uint32_t bits = (any(random) & 0x807fffffu) | (100 + any(random) % 45) << 23;
    const float value = std::bit_cast<float>(bits & (i % 3 == 0 ? 0xfffff000u : 0xffffffffu));
    EXPECT_EQ(float_to_f16(value), nearest_f16(value)) << value;
  }
}

}  // namespace
}  // namespace vkv
