// codec_test: conversions between fp32 and 16 bit round to nearest even, for every fp16 there is.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace vkv {
namespace {

TEST(codec, every_half_survives_the_way_to_float_and_back) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = float_from_half(half);
    if (std::isnan(value)) {
      EXPECT_GT(bits & 0x7fff, kHalfInf);
      EXPECT_TRUE(std::isnan(float_from_half(half_from_float(value))));
      continue;
    }
    ASSERT_EQ(half_from_float(value), half);
  }
}

TEST(codec, halves_have_the_values_of_the_standard) {
  EXPECT_EQ(float_from_half(0x3c00), 1.0f);
  EXPECT_EQ(float_from_half(0xc000), -2.0f);
  EXPECT_EQ(float_from_half(0x7bff), kHalfMax);
  EXPECT_EQ(float_from_half(0x0001), 0x1p-24f);
  EXPECT_EQ(float_from_half(0x03ff), 1023 * 0x1p-24f);
  EXPECT_EQ(float_from_half(0x0400), 0x1p-14f);
  EXPECT_TRUE(std::signbit(float_from_half(0x8000)));
  EXPECT_EQ(float_from_half(0x7c00), std::numeric_limits<float>::infinity());
}

TEST(codec, between_two_halves_the_nearest_wins_and_ties_go_to_even) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = float_from_half(static_cast<uint16_t>(bits));
    const float high = float_from_half(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;  // exact
    ASSERT_EQ(half_from_float(middle), bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(half_from_float(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(half_from_float(std::nextafter(middle, high)), bits + 1);
    ASSERT_EQ(half_from_float(-std::nextafter(middle, high)), 0x8000u + bits + 1);
  }
}

TEST(codec, halves_overflow_to_infinity_where_rounding_says_so) {
  EXPECT_EQ(half_from_float(65519.0f), 0x7bff);
  EXPECT_EQ(half_from_float(65520.0f), kHalfInf);
  EXPECT_EQ(half_from_float(-1e30f), 0xfc00);
  EXPECT_EQ(half_from_float(0x1p-26f), 0);
  EXPECT_EQ(half_from_float(std::numeric_limits<float>::denorm_min()), 0);
}

TEST(codec, bfloats_round_to_nearest_even) {
  EXPECT_EQ(bfloat_from_float(1.0f), 0x3f80);
  EXPECT_EQ(float_from_bfloat(0x3f81), 1.0078125f);
  EXPECT_EQ(bfloat_from_float(1.00390625f), 0x3f80);  // a tie, down to even
  EXPECT_EQ(bfloat_from_float(1.01171875f), 0x3f82);  // a tie, up to even
  EXPECT_EQ(bfloat_from_float(std::nextafter(1.00390625f, 2.0f)), 0x3f81);
  EXPECT_TRUE(std::isnan(float_from_bfloat(bfloat_from_float(std::nanf("")))));
}

TEST(codec, codes_are_nearest_ties_even_and_clamped) {
  EXPECT_EQ(encode_value(0.5f, 0.0f, 1.0f, 15.0f), 0.0f);
  EXPECT_EQ(encode_value(1.5f, 0.0f, 1.0f, 15.0f), 2.0f);
  EXPECT_EQ(encode_value(2.5f, 0.0f, 1.0f, 15.0f), 2.0f);
  EXPECT_EQ(encode_value(-7.0f, 0.0f, 1.0f, 15.0f), 0.0f);
  EXPECT_EQ(encode_value(99.0f, 0.0f, 1.0f, 15.0f), 15.0f);
  EXPECT_EQ(encode_value(3.0f, 3.0f, inverse_scale(0.0f), 15.0f), 0.0f);
  EXPECT_EQ(encode_sign(1.0f, -1.0f, 2.0f), 1.0f);
  EXPECT_EQ(encode_sign(0.0f, -1.0f, 2.0f), 1.0f);
  EXPECT_EQ(encode_sign(-0.1f, -1.0f, 2.0f), 0.0f);
  EXPECT_EQ(encode_sign(1.0f, 1.0f, 0.0f), 0.0f);
}

}  // namespace
}  // namespace vkv
