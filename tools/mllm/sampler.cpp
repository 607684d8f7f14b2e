// sampler.cpp: logits -> the next token.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace vkv {

Status validate(const Sampling& sampling) {
  if (!std::isfinite(sampling.temperature) || sampling.temperature < 0)
    return {Code::kInvalidArgument,
            fmt::format("temperature is {}; it may be 0 (greedy) or more", sampling.temperature)};
  if (!(sampling.top_p > 0 && sampling.top_p <= 1))
    return {Code::kInvalidArgument,
            fmt::format("top_p is {}; it may be more than 0, up to 1", sampling.top_p)};
  if (sampling.max_new_tokens < 1)
    return {Code::kInvalidArgument,
            fmt::format("max_new_tokens is {}; it may be 1 or more", sampling.max_new_tokens)};
  return {};
}

int32_t Sampler::next(std::span<const float> logits) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (sampling_.temperature == 0) return static_cast<int32_t>(best - logits.begin());

  // Most likely first; equal logits by id, so that the order is one.
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  std::vector<double> weight(logits.size());
  double sum = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const double distance = double{logits[static_cast<size_t>(order[i])]} - double{*best};
    weight[i] = std::exp(distance / sampling_.temperature);
    sum += weight[i];
  }

  double kept_sum = 0;
  size_t kept = 0;
  while (kept < order.size() && (kept == 0 || kept_sum < sampling_.top_p * sum))
    kept_sum += weight[kept++];

  const double draw = static_cast<double>(engine_() >> 11) * 0x1p-53 * kept_sum;
  double cumulative = 0;
  for (size_t i = 0; i < kept; ++i) {
    cumulative += weight[i];
    if (cumulative > draw) return order[i];
  }
  return order[kept - 1];  // rounding of the sums
}

}  // namespace vkv
