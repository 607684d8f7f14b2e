// precision.h: which tokens stay open, get high precision, or low, when they are sealed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vkv/options.h"

namespace vkv {

// What becomes of an open token.
enum class TokenClass : uint8_t {
  kUndecided = 0,  // newer than the recent window began, or not looked at yet
  kSink = 1,       // stays open, 16 bit
  kHigh = 2,
  kLow = 3,
};

// Tokens of one layer of one sequence whose class is known, by role. Grows; forks copy it.
struct PrecisionCounts {
  uint64_t other = 0;  // sinks, text, control: they spend the budget first
  uint64_t visual = 0;
  uint64_t visual_high = 0;  // of visual
};

// True if the layer stores text another way than low tokens.
inline bool has_classes(const LayerPrecision& layer) { return layer.high != layer.low; }
// True if any of the layers does.
bool has_classes(const PrecisionPolicy& policy);
// True if some of the layer's visual tokens may be high: then the caller must supply saliency.
bool uses_saliency(const PrecisionPolicy& policy, int layer);

struct ClassifyRequest {
  int layer = 0;
  uint64_t token_count = 0;          // of the layer, with the open tokens
  std::span<const Role> roles;       // of the tokens to decide
  std::span<const uint8_t> is_sink;  // one a token
  std::span<const float> saliency;   // one a token; may be empty if the layer does not use it
  bool all_visual_low = false;       // their originals are kept, and promotion tells them apart
};

// How many more visual tokens may be high, after `counts`.
uint64_t visual_high_room(const PrecisionPolicy& policy, uint64_t token_count,
                          const PrecisionCounts& counts);

// Whether classify() will look at the request's saliency, which need not be there yet: in most
// decode steps the budget of high tokens is spent.
bool needs_saliency(const PrecisionPolicy& policy, const ClassifyRequest& request,
                    PrecisionCounts counts);

// Decides every token of the request and adds them to `counts`. Of equally salient visual tokens
// the earlier wins.
std::vector<TokenClass> classify(const PrecisionPolicy& policy, const ClassifyRequest& request,
                                 PrecisionCounts& counts);

// Marks keys that lie far from the mean of their KV head: ||k - mean|| > sigmas * root mean square
// of that distance over the tokens, in any KV head. distances: [token_count, kv_heads], squared.
// Needs 64 tokens to know what is usual; at most 1 % of the tokens, the farthest ones. Does nothing
// where tells_far_keys() is false.
bool tells_far_keys(const PrecisionPolicy& policy, size_t token_count);
void mark_far_keys(std::span<const float> squared_distances, int kv_heads, double sigmas,
                   std::span<uint8_t> is_sink);

}  // namespace vkv
