// precision.cpp: presets and the choice of a token's class.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/precision.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

namespace vkv {
namespace {

constexpr size_t kTokensToKnowUsual = 64;
constexpr double kFarKeysMax = 0.01;  // of the tokens: sinks are few, or they are not sinks

std::vector<PrecisionPolicy> presets() {
  using enum Codec;
  const CodecPair f16{kF16, kF16}, i8{kI8, kI8}, k8v4{kI8, kI4}, i4{kI4, kI4};
  return {
      {.name = "exact", .high = f16, .low = f16, .sink_tokens = 0, .sink_sigmas = 0},
      {.name = "safe", .high = k8v4, .low = k8v4},
      {.name = "balanced", .high = i4, .low = i4},
      {.name = "visual2", .high = i8, .low = {kI4, kI2}},
      {.name = "visual1", .high = i8, .low = {kI2, kI1}},
      {.name = "extreme", .high = i8, .low = {kI1, kI1}},
      {.name = "onebit",
       .high = i8,
       .low = {kI1, kI1},
       .visual_high_fraction_max = 0.03,
       .segment_headers = true},
  };
}

// How many more visual tokens may be high, after `counts` (which include the new tokens).
uint64_t visual_high_room(const PrecisionPolicy& policy, uint64_t token_count,
                          const PrecisionCounts& counts) {
  const double of_all =
      policy.high_fraction * static_cast<double>(token_count) - static_cast<double>(counts.other);
  const double of_visual = policy.visual_high_fraction_max * static_cast<double>(counts.visual);
  const double allowed =
      std::floor(std::min(of_all, of_visual)) - static_cast<double>(counts.visual_high);
  return allowed > 0 ? static_cast<uint64_t>(allowed) : 0;
}

}  // namespace

Result<PrecisionPolicy> precision_preset(std::string_view name) {
  std::string known;
  for (PrecisionPolicy& policy : presets()) {
    if (policy.name == name) return std::move(policy);
    known += ' ' + policy.name;
  }
  return Status(Code::kInvalidArgument,
                "no precision preset is called '" + std::string(name) + "'; there are" + known);
}

std::vector<std::string_view> precision_preset_names() {
  static const std::vector<PrecisionPolicy> all = presets();
  std::vector<std::string_view> names;
  for (const PrecisionPolicy& policy : all) names.push_back(policy.name);
  return names;
}

bool uses_saliency(const PrecisionPolicy& policy) { return policy.high != policy.low; }

std::vector<TokenClass> classify(const PrecisionPolicy& policy, const ClassifyRequest& request,
                                 PrecisionCounts& counts) {
  const size_t count = request.roles.size();
  std::vector<TokenClass> classes(count, TokenClass::kLow);
  std::vector<uint32_t> visual;
  for (uint32_t i = 0; i < count; ++i) {
    if (request.roles[i] == Role::kVisual && !request.is_sink[i]) {
      visual.push_back(i);
      continue;
    }
    ++counts.other;
    const bool sink = request.is_sink[i] || request.roles[i] == Role::kSink;
    if (sink && policy.sink_tokens > 0)
      classes[i] = TokenClass::kSink;
    else if (uses_saliency(policy))
      classes[i] = TokenClass::kHigh;
  }
  counts.visual += visual.size();
  if (!uses_saliency(policy)) return classes;

  const uint64_t room = visual_high_room(policy, request.token_count, counts);
  const size_t high_count = std::min<uint64_t>(room, visual.size());
  std::partial_sort(visual.begin(), visual.begin() + static_cast<ptrdiff_t>(high_count),
                    visual.end(), [&](uint32_t a, uint32_t b) {
                      const float score_a = request.saliency[a], score_b = request.saliency[b];
                      return score_a != score_b ? score_a > score_b : a < b;
                    });
  for (size_t i = 0; i < high_count; ++i) classes[visual[i]] = TokenClass::kHigh;
  counts.visual_high += high_count;
  return classes;
}

void mark_far_keys(std::span<const float> squared_distances, int kv_heads, double sigmas,
                   std::span<uint8_t> is_sink) {
  const size_t count = is_sink.size();
  if (sigmas <= 0 || count < kTokensToKnowUsual) return;

  std::vector<double> mean_square(static_cast<size_t>(kv_heads), 0.0);
  for (size_t i = 0; i < squared_distances.size(); ++i)
    mean_square[i % static_cast<size_t>(kv_heads)] += squared_distances[i];
  std::vector<double> excess(count, 0.0);  // squared distance over the head's mean square
  for (size_t i = 0; i < squared_distances.size(); ++i) {
    const double usual =
        mean_square[i % static_cast<size_t>(kv_heads)] / static_cast<double>(count);
    if (usual <= 0) continue;
    double& token = excess[i / static_cast<size_t>(kv_heads)];
    token = std::max(token, squared_distances[i] / usual);
  }

  std::vector<uint32_t> far;
  for (uint32_t i = 0; i < count; ++i)
    if (excess[i] > sigmas * sigmas) far.push_back(i);
  std::stable_sort(far.begin(), far.end(),
                   [&](uint32_t a, uint32_t b) { return excess[a] > excess[b]; });
  const size_t marked =
      std::min(far.size(), static_cast<size_t>(kFarKeysMax * static_cast<double>(count)));
  for (size_t i = 0; i < marked; ++i) is_sink[far[i]] = 1;
}

}  // namespace vkv
