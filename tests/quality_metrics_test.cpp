// quality_metrics_test.cpp: divergence and intervals against hand computations and printed values.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tools/quality/metrics.h"

namespace vkv {
namespace {

TEST(compare_logits, is_the_divergence_computed_by_hand) {
  // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = 1/2 ln 2 + 1/4 ln 1/2 = 1/4 ln 2.
  const float p[] = {std::log(2.0f), 0, 0}, q[] = {5, 5 + std::log(2.0f), 5};
  const LogitDifference difference = compare_logits(p, q);
  EXPECT_NEAR(difference.kl, 0.25 * std::log(2.0), 1e-6);
  EXPECT_EQ(difference.reference_top1, 0);
  EXPECT_EQ(difference.test_top1, 1);
}

TEST(compare_logits, equal_logits_differ_by_nothing_and_a_shift_does_not_count) {
  const float p[] = {1, -2, 30, 4}, shifted[] = {101, 98, 130, 104};
  EXPECT_EQ(compare_logits(p, p).kl, 0);
  EXPECT_NEAR(compare_logits(p, shifted).kl, 0, 1e-12);
}

TEST(compare_logits, the_reference_weighs_not_the_test) {
  const float sharp[] = {4, 0}, flat[] = {0, 0};
  const double p = 1 / (1 + std::exp(-4.0));
  EXPECT_NEAR(compare_logits(sharp, flat).kl,
              p * std::log(p / 0.5) + (1 - p) * std::log((1 - p) / 0.5), 1e-6);
  EXPECT_NEAR(compare_logits(flat, sharp).kl,
              0.5 * std::log(0.5 / p) + 0.5 * std::log(0.5 / (1 - p)), 1e-6);
}

TEST(relative_error, is_the_length_of_the_difference_over_that_of_the_reference) {
  const float reference[] = {3, 4}, test[] = {3, 3}, zero[] = {0, 0};
  EXPECT_DOUBLE_EQ(relative_error(reference, test), 0.2);
  EXPECT_EQ(relative_error(zero, zero), 0);
  EXPECT_EQ(relative_error(zero, test), 1);
}

TEST(quantile, interpolates_between_ranks) {
  EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 0), 1);
  EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 1), 4);
  std::vector<double> hundred(101);
  std::iota(hundred.rbegin(), hundred.rend(), 0);
  EXPECT_DOUBLE_EQ(quantile(hundred, 0.99), 99);
  EXPECT_EQ(quantile({}, 0.5), 0);
  EXPECT_EQ(median({7}), 7);
}

// Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
TEST(wilson_interval, gives_the_printed_values) {
  const struct {
    uint64_t count, total;
    double low, high;
  } kPrinted[] = {{81, 263, .2553, .3662},
                  {15, 148, .0624, .1605},
                  {0, 20, .0000, .1611},
                  {1, 29, .0061, .1718}};
  for (const auto& printed : kPrinted) {
    const Interval interval = wilson_interval(printed.count, printed.total);
    EXPECT_NEAR(interval.low, printed.low, 5e-5) << printed.total;
    EXPECT_NEAR(interval.high, printed.high, 5e-5) << printed.total;
  }
  EXPECT_EQ(wilson_interval(0, 0).high, 1);
}

// Fagerland, Lydersen and Laake 2014, "Recommended tests and confidence intervals for paired
// binomial proportions", airway hyper-responsiveness: 1 and 7 discordant pairs of 21.
TEST(paired_interval, gives_the_printed_values) {
  const PairedCounts counts = {.total = 21, .only_reference = 1, .only_test = 7};
  EXPECT_NEAR(counts.drop(), -6.0 / 21, 1e-12);
  EXPECT_NEAR(paired_interval(counts).low, -0.517, 1e-3);
  EXPECT_NEAR(paired_interval(counts).high, -0.026, 1e-3);
}

TEST(paired_interval, without_discordant_pairs_is_what_the_equation_gives_in_closed_form) {
  // q = 0 there, so delta n / sqrt(n delta (1 - delta)) = z, and delta = z^2 / (n + z^2).
  constexpr double kSquare = 1.959963984540054 * 1.959963984540054;
  const Interval interval = paired_interval({.total = 5000});
  EXPECT_NEAR(interval.high, kSquare / (5000 + kSquare), 1e-9);
  EXPECT_NEAR(interval.low, -kSquare / (5000 + kSquare), 1e-9);
}

TEST(paired_interval, turns_around_with_its_counts_and_shrinks_with_their_number) {
  const Interval one = paired_interval({.total = 400, .only_reference = 12, .only_test = 4});
  const Interval other = paired_interval({.total = 400, .only_reference = 4, .only_test = 12});
  EXPECT_NEAR(one.low, -other.high, 1e-9);
  EXPECT_NEAR(one.high, -other.low, 1e-9);
  EXPECT_LT(one.low, 0.02);
  EXPECT_GT(one.high, 0.02);
  const Interval many = paired_interval({.total = 4000, .only_reference = 120, .only_test = 40});
  EXPECT_LT(many.high - many.low, (one.high - one.low) / 2);
  EXPECT_EQ(paired_interval({}).high, 1);
}

}  // namespace
}  // namespace vkv
