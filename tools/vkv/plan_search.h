// plan_search.h: which layer gets which codecs, by measuring whole plans.
// SPDX-License-Identifier: Apache-2.0
//
// Losses of single layers do not add up: a model makes up for one bad layer, not for all of them.
// So every step is measured from the plan that it changes. A measurement costs seconds, hence:
// a step's gain is measured once for all steps, then again only for the few that look best.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

using Plan = std::vector<CodecPair>;  // low pair of each layer

// Losses of plans, in their order. The same plan always has the same loss.
using MeasurePlans = std::function<Result<std::vector<double>>(std::span<const Plan>)>;

struct PlanSearchOptions {
  int head_dim = 0;
  double bits_max = 0;           // mean of pair_bits / 2 over layers
  std::vector<CodecPair> pairs;  // what a layer may have: each pair of codecs at most once, K >= V
  std::vector<Plan> starts;      // of pairs, in the budget, at least one
  size_t measured_max = 4;       // steps that are measured before one is taken
};

struct FoundPlan {
  Plan plan;
  double loss = 0;
  Plan unspread;              // the best before spreads of single layers were moved
  size_t measured_count = 0;  // plans
};

// Mean of pair_bits / 2 over layers.
double plan_bits_mean(const Plan& plan, int head_dim);

// The best plan that was seen, so never worse than the best start.
//
//   1. Raise. From the start of fewest bits and from the best one, the step (K, V or both of one
//      layer, to the next codec) of the greatest gain per bit is taken, again and again, until the
//      budget is spent; also where no step gains, since two together may.
//   2. Exchange. One layer is lowered by a step to pay for a step of another, while that gains.
//   3. Spread. Spreads of single layers are moved by a quarter, and K is rotated or not, while that
//      gains; costs no bits.
//
// Errors: those of `measure`.
Result<FoundPlan> search_plan(const PlanSearchOptions& options, const MeasurePlans& measure);

}  // namespace vkv
