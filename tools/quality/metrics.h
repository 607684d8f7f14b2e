// metrics.h: how far one model output is from another, and how sure a share of right answers is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace vkv {

// One position: logits of the reference against those of a test. Both [vocabulary], finite.
struct LogitDifference {
  double kl = 0;           // KL(softmax(reference) || softmax(test)), nats; never below 0
  int32_t reference_top1;  // the lowest id of equal logits
  int32_t test_top1;
};
LogitDifference compare_logits(std::span<const float> reference, std::span<const float> test);

// ||test - reference|| / ||reference||, Euclidean; 0 if both are zero, 1 if only the reference is.
double relative_error(std::span<const float> reference, std::span<const float> test);

double mean(std::span<const double> values);  // 0 for none

// Linear between the two nearest ranks (type 7 of Hyndman and Fan 1996, numpy's default); 0 for
// none. share: 0..1.
double quantile(std::vector<double> values, double share);
inline double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }

struct Interval {
  double low = 0;
  double high = 0;
};

// 95 % score interval of a share. Source: Wilson 1927, "Probable inference, the law of succession,
// and statistical inference"; (0, 1) for total 0.
Interval wilson_interval(uint64_t count, uint64_t total);

// The same questions answered twice.
struct PairedCounts {
  uint64_t total = 0;
  uint64_t only_reference = 0;  // right in the reference, wrong in the test
  uint64_t only_test = 0;       // the other way round

  // Share of right answers lost: reference minus test; negative is a gain.
  double drop() const;
};

// 95 % score interval of the drop. Source: Tango 1998, "Equivalence test and confidence interval
// for the difference in proportions for the paired-sample design", Statistics in Medicine 17.
// (-1, 1) for total 0.
Interval paired_interval(const PairedCounts& counts);

}  // namespace vkv
