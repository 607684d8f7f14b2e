// bit_plan.h: which layer gets which codecs, so that the sum of losses is least under a budget.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

// One way to store a layer, and what it was measured to lose.
struct LayerChoice {
  CodecPair codecs;
  double loss = 0;  // KL of the logits when only this layer is stored so; >= 0
};

// Stored bits of a K and a V value together, headers of full blocks counted.
double pair_bits(const CodecPair& codecs, int head_dim);

// Picks one choice a layer. The mean of pair_bits / 2 over layers is at most bits_max, the sum of
// losses least: exact, by dynamic programming over the few sums that bits can have.
// Losses of layers are taken to add up, which holds while they are small: plan_search.h starts here
// among others, and measures. Errors: kInvalidArgument where even the smallest choices exceed the
// budget.
Result<std::vector<CodecPair>> plan_bits(std::span<const std::vector<LayerChoice>> layers,
                                         int head_dim, double bits_max);

}  // namespace vkv
