// precision.cpp: presets and the choice of a token's class.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/precision.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <tuple>

namespace vkv {
namespace {

constexpr size_t kTokensToKnowUsual = 64;
constexpr int kSinkTokensMax = 64;    // they stay at 16 bit in every sequence
constexpr double kFarKeysMax = 0.01;  // of the tokens: sinks are few, or they are not sinks

std::vector<PrecisionPolicy> presets() {
  using enum Codec;
  const CodecPair f16{kF16, kF16}, i8{kI8, kI8}, k8v4{kI8, kI4}, i4{kI4, kI4};
  // V of text at 4 bits has scales of its own: a seventh of the divergence of scales per channel.
  const CodecPair k8v4_text{.k = kI8, .v = kI4, .v_per_token = true};
  const CodecPair i4_text{.k = kI4, .v = kI4, .v_per_token = true};
  // The widest spreads that cost real text nothing (SmolLM2), and so halve TinyVLM's losses.
  const CodecPair k4v2{.k = kI4, .v = kI2, .v_spread = 1.1f};
  const CodecPair k2v1{.k = kI2, .v = kI1, .k_spread = 1.1f, .v_spread = 1.2f};
  return {
      {.name = "exact", .high = f16, .low = f16, .sink_tokens = 0, .sink_sigmas = 0},
      {.name = "safe", .high = k8v4_text, .low = k8v4, .visual_high_fraction_max = 0},
      {.name = "balanced", .high = i4_text, .low = i4, .visual_high_fraction_max = 0},
      {.name = "visual2", .high = i8, .low = k4v2},
      {.name = "visual1", .high = i8, .low = k2v1},
      {.name = "extreme", .high = i8, .low = {kI1, kI1}},
      {.name = "onebit",
       .high = i8,
       .low = {kI1, kI1},
       .visual_high_fraction_max = 0.03,
       .segment_headers = true},
  };
}

}  // namespace

Status validate(const PrecisionPolicy& policy) {
  const std::string who = "precision '" + policy.name + "'";
  const auto invalid = [&](const std::string& what) {
    return Status(Code::kInvalidArgument, who + ": " + what);
  };
  const auto check_pair = [&](const std::string& where, const CodecPair& codecs) -> Status {
    if (bits_of(codecs.k) < bits_of(codecs.v))
      return invalid(where + " gives K fewer bits (" + std::string(name(codecs.k)) + ") than V (" +
                     std::string(name(codecs.v)) + "); errors of K cost more");
    if (codecs.k_rotated && bits_of(codecs.k) > 2)
      return invalid(where + " has k_rotated with K " + std::string(name(codecs.k)) +
                     "; it is for i2 and i1");
    for (const auto& [part, codec, spread] :
         {std::tuple("k", codecs.k, codecs.k_spread), std::tuple("v", codecs.v, codecs.v_spread)})
      if (spread != 1.0f && (bits_of(codec) > 4 || !(spread >= 0.5f && spread <= 4.0f)))
        return invalid(where + " has " + part + "_spread " + std::to_string(spread) + " with " +
                       std::string(name(codec)) + "; it is for i4, i2 and i1, 0.5 to 4");
    if (codecs.v_per_token && is_16_bit(codecs.v))
      return invalid(where + " has v_per_token with V " + std::string(name(codecs.v)) +
                     "; it is for i8, i4, i2 and i1");
    return {};
  };
  const auto check_low = [&](const std::string& where, const CodecPair& codecs) -> Status {
    VKV_TRY(check_pair(where, codecs));
    if (!codecs.v_per_token || !policy.segment_headers) return {};
    return invalid(where + " has v_per_token, whose scales a segment cannot share; it needs " +
                   "segment_headers false");
  };
  VKV_TRY(check_pair("high", policy.high));
  VKV_TRY(check_low("low", policy.low));
  std::set<int> seen;
  for (const LayerPrecision& own : policy.layers) {
    const std::string layer = "layer " + std::to_string(own.layer);
    if (own.layer < 0) return invalid(layer + ": layers count from 0");
    if (!seen.insert(own.layer).second) return invalid(layer + " stands twice in layers");
    VKV_TRY(check_pair(layer + " high", own.high));
    VKV_TRY(check_low(layer + " low", own.low));
  }
  const auto check_fraction = [&](const char* field, double value) -> Status {
    if (value >= 0 && value <= 1) return {};
    return invalid(std::string(field) + " is " + std::to_string(value) + "; it may be 0 to 1");
  };
  VKV_TRY(check_fraction("high_fraction", policy.high_fraction));
  VKV_TRY(check_fraction("visual_high_fraction_max", policy.visual_high_fraction_max));
  if (policy.sink_tokens < 0 || policy.sink_tokens > kSinkTokensMax)
    return invalid("sink_tokens is " + std::to_string(policy.sink_tokens) + "; it may be 0 to " +
                   std::to_string(kSinkTokensMax));
  if (!(policy.sink_sigmas >= 0) || !std::isfinite(policy.sink_sigmas))
    return invalid("sink_sigmas is " + std::to_string(policy.sink_sigmas) +
                   "; it may be 0 (none) or any positive number");
  return {};
}

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

LayerPrecision precision_of_layer(const PrecisionPolicy& policy, int layer) {
  for (const LayerPrecision& own : policy.layers)
    if (own.layer == layer) return own;
  return {.layer = layer, .high = policy.high, .low = policy.low};
}

bool has_classes(const PrecisionPolicy& policy) {
  return policy.high != policy.low ||
         std::any_of(policy.layers.begin(), policy.layers.end(),
                     [](const LayerPrecision& layer) { return has_classes(layer); });
}

bool uses_saliency(const PrecisionPolicy& policy, int layer) {
  return has_classes(precision_of_layer(policy, layer)) && policy.high_fraction > 0 &&
         policy.visual_high_fraction_max > 0;
}

uint64_t visual_high_room(const PrecisionPolicy& policy, uint64_t token_count,
                          const PrecisionCounts& counts) {
  const double of_all =
      policy.high_fraction * static_cast<double>(token_count) - static_cast<double>(counts.other);
  const double of_visual = policy.visual_high_fraction_max * static_cast<double>(counts.visual);
  const double allowed =
      std::floor(std::min(of_all, of_visual)) - static_cast<double>(counts.visual_high);
  return allowed > 0 ? static_cast<uint64_t>(allowed) : 0;
}

bool needs_saliency(const PrecisionPolicy& policy, const ClassifyRequest& request,
                    PrecisionCounts counts) {
  if (!uses_saliency(policy, request.layer) || request.all_visual_low) return false;
  const uint64_t visual_before = counts.visual;
  for (size_t i = 0; i < request.roles.size(); ++i) {
    const bool visual = request.roles[i] == Role::kVisual && !request.is_sink[i];
    ++(visual ? counts.visual : counts.other);
  }
  return counts.visual > visual_before && visual_high_room(policy, request.token_count, counts) > 0;
}

std::vector<TokenClass> classify(const PrecisionPolicy& policy, const ClassifyRequest& request,
                                 PrecisionCounts& counts) {
  const bool two_classes = has_classes(precision_of_layer(policy, request.layer));
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
    else if (two_classes)
      classes[i] = TokenClass::kHigh;
  }
  counts.visual += visual.size();
  if (!uses_saliency(policy, request.layer) || request.all_visual_low) return classes;
  VKV_CHECK(request.saliency.size() == count);

  const uint64_t room = visual_high_room(policy, request.token_count, counts);
  const size_t high_count = std::min<uint64_t>(room, visual.size());
  std::nth_element(visual.begin(), visual.begin() + static_cast<ptrdiff_t>(high_count),
                   visual.end(), [&](uint32_t a, uint32_t b) {
                     const float score_a = request.saliency[a], score_b = request.saliency[b];
                     return score_a != score_b ? score_a > score_b : a < b;
                   });
  for (size_t i = 0; i < high_count; ++i) classes[visual[i]] = TokenClass::kHigh;
  counts.visual_high += high_count;
  return classes;
}

bool tells_far_keys(const PrecisionPolicy& policy, size_t token_count) {
  return policy.sink_sigmas > 0 && token_count >= kTokensToKnowUsual;
}

void mark_far_keys(std::span<const float> squared_distances, int kv_heads, double sigmas,
                   std::span<uint8_t> is_sink) {
  const size_t count = is_sink.size();
  if (sigmas <= 0 || count < kTokensToKnowUsual) return;

  const auto heads = static_cast<size_t>(kv_heads);
  std::vector<double> usual(heads, 0.0);  // mean square of each head
  for (size_t i = 0; i < count; ++i)
    for (size_t head = 0; head < heads; ++head) usual[head] += squared_distances[i * heads + head];
  for (double& sum : usual) sum /= static_cast<double>(count);
  std::vector<double> excess(count, 0.0);  // squared distance over that, of the head with the most
  for (size_t i = 0; i < count; ++i)
    for (size_t head = 0; head < heads; ++head)
      if (usual[head] > 0)
        excess[i] = std::max(excess[i], squared_distances[i * heads + head] / usual[head]);

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
