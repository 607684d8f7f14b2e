// metrics.cpp: divergence of logits, quantiles, score intervals.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/metrics.h"

#include <algorithm>
#include <cmath>

#include "vkv/status.h"

namespace vkv {
namespace {

constexpr double kZ = 1.959963984540054;  // 97.5 % of a normal distribution

// ln(sum of exp(logit)).
double log_sum_exp(std::span<const float> logits, double greatest) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - greatest);
  return greatest + std::log(sum);
}

// Tango's statistic: how many standard deviations lie between the counts and a true drop `delta`,
// with the nuisance parameter at its maximum likelihood. Falls as delta grows.
double score_statistic(const PairedCounts& counts, double delta) {
  const double n = static_cast<double>(counts.total);
  const double b = static_cast<double>(counts.only_reference);
  const double c = static_cast<double>(counts.only_test);
  const double second = -b - c + (2 * n - b + c) * delta;
  const double third = -c * delta * (1 - delta);
  const double q = (std::sqrt(std::max(0.0, second * second - 8 * n * third)) - second) / (4 * n);
  const double variance = n * (2 * q + delta * (1 - delta));
  const double difference = b - c - n * delta;
  if (variance <= 0) return difference > 0 ? INFINITY : difference < 0 ? -INFINITY : 0;
  return difference / std::sqrt(variance);
}

// The delta in (-1, 1) where the statistic is `wanted`.
double solve_score(const PairedCounts& counts, double wanted) {
  double low = -1, high = 1;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (score_statistic(counts, middle) > wanted ? low : high) = middle;
  }
  return (low + high) / 2;
}

}  // namespace

LogitDifference compare_logits(std::span<const float> reference, std::span<const float> test) {
  VKV_CHECK(!reference.empty() && reference.size() == test.size());
  const auto top_reference = std::max_element(reference.begin(), reference.end());
  const auto top_test = std::max_element(test.begin(), test.end());
  const double log_reference = log_sum_exp(reference, *top_reference);
  const double log_test = log_sum_exp(test, *top_test);
  double kl = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_p = reference[i] - log_reference;
    kl += std::exp(log_p) * (log_p - (test[i] - log_test));
  }
  return {std::max(0.0, kl), static_cast<int32_t>(top_reference - reference.begin()),
          static_cast<int32_t>(top_test - test.begin())};
}

double relative_error(std::span<const float> reference, std::span<const float> test) {
  VKV_CHECK(reference.size() == test.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double d = double{test[i]} - double{reference[i]};
    difference += d * d;
    norm += double{reference[i]} * double{reference[i]};
  }
  if (norm == 0) return difference == 0 ? 0 : 1;
  return std::sqrt(difference / norm);
}

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const double rank = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const auto at = values.begin() + static_cast<ptrdiff_t>(below);
  std::nth_element(values.begin(), at, values.end());
  if (below + 1 >= values.size()) return *at;
  const double next = *std::min_element(at + 1, values.end());
  return *at + (rank - static_cast<double>(below)) * (next - *at);
}

Interval wilson_interval(uint64_t count, uint64_t total) {
  if (total == 0) return {0, 1};
  const double n = static_cast<double>(total), p = static_cast<double>(count) / n;
  const double centre = p + kZ * kZ / (2 * n), scale = 1 + kZ * kZ / n;
  const double half = kZ * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
  return {std::max(0.0, (centre - half) / scale), std::min(1.0, (centre + half) / scale)};
}

double PairedCounts::drop() const {
  if (total == 0) return 0;
  return (static_cast<double>(only_reference) - static_cast<double>(only_test)) /
         static_cast<double>(total);
}

Interval paired_interval(const PairedCounts& counts) {
  if (counts.total == 0) return {-1, 1};
  return {solve_score(counts, kZ), solve_score(counts, -kZ)};
}

}  // namespace vkv
