// merge_cases.h: partials of random attention, and what they merge to in double precision.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include "runtime/base/backend.h"

namespace vkv {

struct MergeCase {
  int head_dim = 128;
  size_t row_count = 28;
  size_t partial_count = 3;
};

// Each step rounds its lse to fp32, by up to 4e-6 where that is near 100.
inline constexpr double kMergeTolerance = 5e-5;

inline const std::vector<MergeCase> kMergeCases = {{128, 28, 0},  {128, 28, 1}, {128, 28, 2},
                                                   {64, 1, 7},    {80, 5, 33},  {8, 3, 128},
                                                   {256, 7, 129}, {96, 32, 64}, {128, 196, 300}};

// Every fourth partial of a row is of no token: its out is NaN, which must not be read. Row 1 has
// none at all; row 2 has scores that overflow unless the greatest is taken off.
struct RandomPartials {
  explicit RandomPartials(const MergeCase& merge) : shape(merge) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto head_dim = static_cast<size_t>(merge.head_dim);
    for (size_t i = 0; i < merge.partial_count; ++i) {
      out.emplace_back(merge.row_count * head_dim);
      lse.emplace_back(merge.row_count);
      for (size_t row = 0; row < merge.row_count; ++row) {
        const bool empty = row == 1 || (i + row) % 4 == 3;
        lse[i][row] = empty ? -INFINITY : 4 * normal(random) + (row == 2 ? 100.0f : 0.0f);
        for (size_t c = 0; c < head_dim; ++c)
          out[i][row * head_dim + c] = empty ? NAN : normal(random);
      }
    }
  }

  // The largest errors of out, relative to the largest value of its row, and of lse.
  struct Errors {
    double out = 0;
    double lse = 0;
  };
  Errors errors(const std::vector<float>& got_out, const std::vector<float>& got_lse) const {
    Errors worst;
    const auto head_dim = static_cast<size_t>(shape.head_dim);
    const auto take = [](double& most, double error) {
      most = std::isnan(error) ? INFINITY : std::max(most, error);
    };
    for (size_t row = 0; row < shape.row_count; ++row) {
      double max = -INFINITY, sum = 0;
      for (const auto& part : lse) max = std::max(max, double{part[row]});
      std::vector<double> expected(head_dim, 0.0);
      for (size_t i = 0; i < lse.size(); ++i) {
        if (lse[i][row] == -INFINITY) continue;
        const double weight = std::exp(lse[i][row] - max);
        sum += weight;
        for (size_t c = 0; c < head_dim; ++c) expected[c] += weight * out[i][row * head_dim + c];
      }
      double largest = 1e-30;
      for (double& value : expected) {
        if (sum > 0) value /= sum;
        largest = std::max(largest, std::abs(value));
      }
      for (size_t c = 0; c < head_dim; ++c)
        take(worst.out, std::abs(got_out[row * head_dim + c] - expected[c]) / largest);
      if (sum == 0)
        take(worst.lse, got_lse[row] == -INFINITY ? 0.0 : INFINITY);
      else
        take(worst.lse, std::abs(got_lse[row] - (max + std::log(sum))) / std::max(1.0, max));
    }
    return worst;
  }

  MergeCase shape;
  std::vector<std::vector<float>> out;  // [partial][row_count, head_dim]
  std::vector<std::vector<float>> lse;  // [partial][row_count]
};

}  // namespace vkv
