// plan_search.cpp: raise, exchange, spread.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/plan_search.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "runtime/base/codec.h"
#include "tools/vkv/bit_plan.h"

namespace vkv {
namespace {

constexpr double kBitsSlack = 1e-9;  // for sums of floats
// A change must gain this share of the loss: less says nothing about other items.
constexpr double kGainShareMin = 0.01;
constexpr float kSpreadStep = 0.25f, kSpreadMin = 0.75f, kSpreadMax = 2.0f;

// One layer takes another pair.
struct Step {
  size_t layer = 0;
  CodecPair to;
  double bits = 0;  // more than now, of the plan's mean
  double gain = 0;  // loss before less loss after, when it was last measured

  bool same_as(const Step& other) const { return layer == other.layer && to == other.to; }
};

class PlanSearch {
 public:
  PlanSearch(const PlanSearchOptions& options, const MeasurePlans& measure)
      : options_(options), measure_(measure) {
    for (const CodecPair& pair : options.pairs) {
      k_codecs_.push_back(pair.k);
      v_codecs_.push_back(pair.v);
    }
    for (std::vector<Codec>* codecs : {&k_codecs_, &v_codecs_}) {
      std::sort(codecs->begin(), codecs->end(),
                [](Codec a, Codec b) { return bits_of(a) < bits_of(b); });
      codecs->erase(std::unique(codecs->begin(), codecs->end()), codecs->end());
    }
  }

  Result<FoundPlan> run() {
    VKV_TRY(losses_of(options_.starts).status());
    const auto bits = [&](const Plan& plan) { return plan_bits_mean(plan, options_.head_dim); };
    const auto fewest =
        std::min_element(options_.starts.begin(), options_.starts.end(),
                         [&](const Plan& a, const Plan& b) { return bits(a) < bits(b); });
    const Plan best_start = best_.plan;
    VKV_TRY(raise(*fewest));
    if (best_start != *fewest) VKV_TRY(raise(best_start));
    VKV_TRY(exchange());
    const Plan unspread = best_.plan;
    VKV_TRY(spread());
    best_.unspread = unspread;
    best_.measured_count = known_.size();
    return best_;
  }

 private:
  // Measures what is not known yet. Remembers the best within the budget.
  Result<std::vector<double>> losses_of(std::span<const Plan> plans) {
    std::vector<Plan> fresh;
    for (const Plan& plan : plans)
      if (!known(plan) && std::find(fresh.begin(), fresh.end(), plan) == fresh.end())
        fresh.push_back(plan);
    if (!fresh.empty()) {
      VKV_TRY_ASSIGN(losses, measure_(fresh));
      for (size_t i = 0; i < fresh.size(); ++i) {
        known_.emplace_back(fresh[i], losses[i]);
        // Steps up are also measured where another step has to pay for them first.
        if (room(fresh[i]) >= 0 && (best_.plan.empty() || losses[i] < best_.loss))
          best_ = {.plan = fresh[i], .loss = losses[i]};
      }
    }
    std::vector<double> all;
    for (const Plan& plan : plans) all.push_back(*known(plan));
    return all;
  }
  std::optional<double> known(const Plan& plan) const {
    for (const auto& [other, loss] : known_)
      if (other == plan) return loss;
    return std::nullopt;
  }

  std::optional<CodecPair> pair(std::optional<Codec> k, std::optional<Codec> v) const {
    for (const CodecPair& one : options_.pairs)
      if (one.k == k && one.v == v) return one;
    return std::nullopt;
  }
  // The codec so many places above in bits.
  static std::optional<Codec> moved(const std::vector<Codec>& codecs, Codec from, int by) {
    const ptrdiff_t at = std::find(codecs.begin(), codecs.end(), from) - codecs.begin() + by;
    if (at < 0 || at >= static_cast<ptrdiff_t>(codecs.size())) return std::nullopt;
    return codecs[static_cast<size_t>(at)];
  }
  // K, V or both of one layer to the next codec; `by` 1: up, -1: down.
  std::vector<Step> steps(const Plan& plan, int by) const {
    std::vector<Step> all;
    for (size_t layer = 0; layer < plan.size(); ++layer) {
      const CodecPair& now = plan[layer];
      const auto k = moved(k_codecs_, now.k, by), v = moved(v_codecs_, now.v, by);
      for (const auto& to : {pair(k, now.v), pair(now.k, v), pair(k, v)})
        if (to) all.push_back({layer, *to, bits_between(now, *to, plan.size())});
    }
    return all;
  }
  double bits_between(const CodecPair& from, const CodecPair& to, size_t layer_count) const {
    return (pair_bits(to, options_.head_dim) - pair_bits(from, options_.head_dim)) / 2 /
           static_cast<double>(layer_count);
  }
  double room(const Plan& plan) const {
    return options_.bits_max - plan_bits_mean(plan, options_.head_dim) + kBitsSlack;
  }

  // Sets the gains of steps from `plan`, which has this loss.
  Status measure_gains(const Plan& plan, double loss, std::span<Step> steps) {
    std::vector<Plan> plans(steps.size(), plan);
    for (size_t i = 0; i < steps.size(); ++i) plans[i][steps[i].layer] = steps[i].to;
    VKV_TRY_ASSIGN(losses, losses_of(plans));
    for (size_t i = 0; i < steps.size(); ++i) steps[i].gain = loss - losses[i];
    return {};
  }

  // Gains that were measured before, from an earlier plan; all that is new is measured now.
  Status recall_gains(const Plan& plan, double loss, std::span<const Step> before,
                      std::vector<Step>& steps) {
    const auto old = std::stable_partition(steps.begin(), steps.end(), [&](const Step& step) {
      return std::none_of(before.begin(), before.end(),
                          [&](const Step& other) { return step.same_as(other); });
    });
    for (auto step = old; step != steps.end(); ++step)
      step->gain = std::find_if(before.begin(), before.end(), [&](const Step& other) {
                     return step->same_as(other);
                   })->gain;
    return measure_gains(plan, loss, {steps.begin(), old});
  }

  Status raise(Plan plan) {
    VKV_TRY_ASSIGN(losses, losses_of({&plan, 1}));
    double loss = losses.front();
    std::vector<Step> before;
    while (true) {
      std::vector<Step> all = steps(plan, 1);
      std::erase_if(all, [&](const Step& step) { return step.bits > room(plan); });
      if (all.empty()) return {};
      VKV_TRY(recall_gains(plan, loss, before, all));
      VKV_TRY_ASSIGN(taken, take_best(plan, loss, all));
      plan[taken.layer] = taken.to;
      loss -= taken.gain;
      before = std::move(all);
    }
  }

  // Measures the few steps that look best per bit and returns the best of them.
  Result<Step> take_best(const Plan& plan, double loss, std::vector<Step>& steps) {
    const auto rate = [](const Step& step) {
      return step.bits > 0 ? step.gain / step.bits : step.gain;
    };
    const auto better = [&](const Step& a, const Step& b) { return rate(a) > rate(b); };
    std::stable_sort(steps.begin(), steps.end(), better);
    const std::span<Step> few(steps.data(), std::min(steps.size(), options_.measured_max));
    VKV_TRY(measure_gains(plan, loss, few));
    return *std::min_element(few.begin(), few.end(), better);
  }

  bool gains_enough(double before) const { return best_.loss < before * (1 - kGainShareMin); }

  Status exchange() {
    std::vector<Step> up_before, down_before;
    while (true) {
      const Plan plan = best_.plan;
      const double loss = best_.loss;
      std::vector<Step> up = steps(plan, 1), down = steps(plan, -1);
      VKV_TRY(recall_gains(plan, loss, up_before, up));
      VKV_TRY(recall_gains(plan, loss, down_before, down));
      // As if the two added up; then the few that look best are measured.
      std::vector<std::pair<double, Plan>> both;
      for (const Step& lower : down)
        for (const Step& higher : up) {
          if (lower.layer == higher.layer || lower.bits + higher.bits > room(plan)) continue;
          both.emplace_back(lower.gain + higher.gain, plan);
          both.back().second[lower.layer] = lower.to;
          both.back().second[higher.layer] = higher.to;
        }
      std::stable_sort(both.begin(), both.end(),
                       [](const auto& a, const auto& b) { return a.first > b.first; });
      std::vector<Plan> few;
      for (size_t i = 0; i < std::min(both.size(), options_.measured_max); ++i)
        few.push_back(both[i].second);
      VKV_TRY(losses_of(few).status());
      if (!gains_enough(loss)) return {};
      up_before = std::move(up), down_before = std::move(down);
    }
  }

  std::vector<Step> spread_steps(const Plan& plan) const {
    std::vector<Step> all;
    const auto add = [&](size_t layer, const CodecPair& to) { all.push_back({layer, to}); };
    for (size_t layer = 0; layer < plan.size(); ++layer) {
      const CodecPair now = plan[layer];
      for (const float by : {-kSpreadStep, kSpreadStep}) {
        CodecPair k = now, v = now;
        k.k_spread += by, v.v_spread += by;
        const auto in_range = [](float s) { return s >= kSpreadMin && s <= kSpreadMax; };
        if (bits_of(now.k) <= 4 && in_range(k.k_spread)) add(layer, k);
        if (bits_of(now.v) <= 4 && in_range(v.v_spread)) add(layer, v);
      }
      CodecPair turned = now;
      turned.k_rotated = !now.k_rotated;
      const bool can_rotate = std::has_single_bit(static_cast<unsigned>(options_.head_dim));
      if (bits_of(now.k) <= 2 && can_rotate) add(layer, turned);
    }
    return all;
  }

  Status spread() {
    std::vector<Step> before;
    while (true) {
      const Plan plan = best_.plan;
      const double loss = best_.loss;
      std::vector<Step> all = spread_steps(plan);
      VKV_TRY(recall_gains(plan, loss, before, all));
      VKV_TRY(take_best(plan, loss, all).status());
      if (!gains_enough(loss)) return {};
      before = std::move(all);
    }
  }

  const PlanSearchOptions& options_;
  const MeasurePlans& measure_;
  std::vector<Codec> k_codecs_, v_codecs_;  // in rising order of bits
  std::vector<std::pair<Plan, double>> known_;
  FoundPlan best_;
};

}  // namespace

double plan_bits_mean(const Plan& plan, int head_dim) {
  double bits = 0;
  for (const CodecPair& pair : plan) bits += pair_bits(pair, head_dim) / 2;
  return bits / static_cast<double>(plan.size());
}

Result<FoundPlan> search_plan(const PlanSearchOptions& options, const MeasurePlans& measure) {
  return PlanSearch(options, measure).run();
}

}  // namespace vkv
