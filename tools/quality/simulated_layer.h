// simulated_layer.h: K and V of one layer of one sequence of a SimulatedCache, and their sealing.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "runtime/base/block_format.h"
#include "runtime/precision.h"
#include "tools/quality/scheme.h"
#include "vkv/cache.h"

namespace vkv {

struct alignas(kRecordAlignment) HeaderLine {
  std::byte bytes[kRecordAlignment];
};

struct SimulatedLayer {
  std::vector<float> k, v;  // [tokens, kv_heads, head_dim]: what attention reads
  // Only where scores are corrected by lambda, [tokens, kv_heads, head_dim]: the middle of each
  // channel's two levels (of a token that has none, the key itself), and the key as appended.
  std::vector<float> k_middle, k_given;
  std::vector<TokenClass> classes;  // [tokens]
  std::vector<uint8_t> sealed;      // [tokens]
  std::vector<float> mean;          // [kv_heads, head_dim]; empty before the first seal
  std::vector<HeaderLine> headers;  // of the newest segment that has its own
  PrecisionCounts counts;
  std::array<double, kRoleCount> sealed_bits{};  // by role

  uint32_t token_count() const { return static_cast<uint32_t>(classes.size()); }
};

// What one attend ended with; arrays as in SaliencyItem, not shifted by a mean.
struct SimulatedSeal {
  const CacheOptions* options = nullptr;
  const Scheme* scheme = nullptr;
  int layer = 0;
  std::span<const Role> roles;  // of all tokens of the sequence
  int q_len = 0;
  const float* q = nullptr;
  const float* lse = nullptr;
  float score_scale = 1;
  bool ends_window = false;
};

// Decides the classes of tokens that have become old and puts what may be sealed through its codec
// or scheme. Errors: those of the encoder.
Status seal_simulated(SimulatedLayer& layer, const SimulatedSeal& seal);

}  // namespace vkv
