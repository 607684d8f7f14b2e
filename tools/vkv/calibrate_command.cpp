// calibrate_command.cpp: tunes pairs of codecs, searches a plan by layer, and measures what it
// found against every uniform pair on other items. SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/calibrate_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "tools/quality/evaluation.h"
#include "tools/quality/quality_summary.h"
#include "tools/vkv/bit_plan.h"
#include "tools/vkv/exit_code.h"
#include "tools/vkv/plan_search.h"
#include "tools/vkv/policy_file.h"
#include "tools/vkv/progress.h"

namespace vkv {
namespace {

constexpr const char* kExamples = R"(
Examples:
  vkv calibrate --model tiny --jobs jobs.jsonl --out tiny.json
  vkv calibrate --model tiny --jobs jobs.jsonl --base extreme --bits 1.5 --out tiny2.json
  vkv run --model tiny --policy tiny.json ...

A policy by layer: which codecs the low tokens of each layer get, how far their levels are moved
apart, and whether K is rotated. High tokens stay as in the base. Everything is decided by the mean
KL of the logits, over four questions (or one passage) of each of --calibration-items items:
  1. every pair of codecs, in all layers alike, gets its best spreads and rotation;
  2. each layer is measured alone, K and V apart (the table; as K never has fewer bits than V, K's
     share is that of both less that of V);
  3. layers are raised step by step, each step measured from the plan that it changes: from the
     pair of fewest bits, and from the best of the pairs within the budget and the plan that would
     be best if losses of layers added up. Then steps are exchanged between layers, then spreads of
     single layers are moved.
The plan, the plan without step 3's spreads, the base, and every pair of no more bits are then
compared on up to --test-items other items, and the one of least KL is written: so it is no worse
there than any uniform choice. The table says which one it is. It was chosen among these on those
items, so its KL there is a little too good.)";

Status wrong(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }

// Loss of each codec in one layer, in the order of the codecs.
struct LayerLoss {
  std::vector<double> k, v;
};

std::string text_of(const CodecPair& pair) {
  std::string text = fmt::format("{}/{}", name(pair.k), name(pair.v));
  if (pair.k_spread != 1.0f || pair.v_spread != 1.0f)
    text += fmt::format(" spread {},{}", pair.k_spread, pair.v_spread);
  return text + (pair.k_rotated ? " rotated" : "");
}

class Calibration {
 public:
  explicit Calibration(const CalibrateArguments& arguments)
      : arguments_(arguments),
        progress_(progress_mode(arguments_.data.quiet, arguments_.data.progress)) {}

  // Errors: of flags, model and data; kCancelled.
  Status run() {
    VKV_TRY(prepare());
    VKV_TRY(tune_pairs());
    VKV_TRY_ASSIGN(losses, measure_layers());
    print_losses(losses);
    VKV_TRY(search(losses));
    VKV_TRY_ASSIGN(policy, best_of_rivals());
    return write(policy);
  }

 private:
  Status prepare() {
    VKV_TRY(check(arguments_.data));
    if (arguments_.test_items < 1) return wrong("--test-items must be at least 1");
    VKV_TRY_ASSIGN(base, policy_from(arguments_.base));
    base_ = base;
    VKV_TRY(read_codecs());
    if (!std::ofstream(arguments_.out, std::ios::app))
      return {Code::kIo, fmt::format("--out: {} cannot be written", arguments_.out)};
    progress_.begin_phase("loading the model", "");
    VKV_TRY_ASSIGN(evaluation, open_evaluation(arguments_.data));
    progress_.clear();
    evaluation_ = std::move(evaluation);
    VKV_TRY_ASSIGN(data, load_measured_data(arguments_.data, evaluation_->tokenizer()));
    data_ = std::move(data);
    if (!data_.failures.empty()) return wrong(data_.failures.front());
    test_items_ = data_.sources;
    calibration_items_ =
        take_calibration(test_items_, static_cast<size_t>(arguments_.data.calibration_items));
    if (test_items_.empty()) return wrong("two items are needed: one calibrates, one tests");
    take_test_items();
    bits_max_ = arguments_.bits > 0 ? arguments_.bits : plan_bits_mean(base_plan(), head_dim());
    if (!fits(uniform({.k = codecs_.back(), .v = codecs_.back()})))
      return wrong(
          fmt::format("{} bits a value are fewer than the smallest codecs need", bits_max_));
    return {};
  }

  Status read_codecs() {
    std::istringstream names(arguments_.codecs);
    for (std::string codec; std::getline(names, codec, ',');) {
      const auto pair = codec_pair_named(codec);
      if (!pair || is_16_bit(pair->k) || codec.find('/') != std::string::npos)
        return wrong(fmt::format("--codecs has \"{}\"; there are i8, i4, i2 and i1", codec));
      codecs_.push_back(pair->k);
    }
    std::sort(codecs_.begin(), codecs_.end());
    codecs_.erase(std::unique(codecs_.begin(), codecs_.end()), codecs_.end());
    return codecs_.empty() ? wrong("--codecs is empty") : Status();
  }

  // Evenly spread, as the calibration items are.
  void take_test_items() {
    const size_t all = test_items_.size();
    const size_t count = std::min(all, static_cast<size_t>(arguments_.test_items));
    for (size_t i = 0; i < count; ++i) test_items_[i] = test_items_[i * all / count];
    test_items_.resize(count);
  }

  int head_dim() const { return evaluation_->model_config().kv_shape().head_dim; }
  int layer_count() const { return evaluation_->model_config().kv_shape().layers; }

  Plan uniform(const CodecPair& pair) const {
    return Plan(static_cast<size_t>(layer_count()), pair);
  }
  Plan base_plan() const {
    Plan plan;
    for (int layer = 0; layer < layer_count(); ++layer)
      plan.push_back(precision_of_layer(base_, layer).low);
    return plan;
  }
  bool fits(const Plan& plan) const { return plan_bits_mean(plan, head_dim()) <= bits_max_ + 1e-9; }

  // Where the base stores all old tokens alike, high ones go with the low ones.
  Configuration configuration(const Plan& plan, const std::string& name) const {
    Configuration one{.name = name, .policy = base_};
    one.policy.name = std::filesystem::path(arguments_.out).stem().string();
    one.policy.layers.clear();
    for (int layer = 0; layer < layer_count(); ++layer) {
      const CodecPair& low = plan[static_cast<size_t>(layer)];
      const LayerPrecision own = precision_of_layer(base_, layer);
      one.policy.layers.push_back(
          {.layer = layer, .high = own.high == own.low ? low : own.high, .low = low});
    }
    return one;
  }

  // Everything at 16 bit but the low tokens of one layer.
  Configuration only_layer(int layer, const CodecPair& codecs) const {
    Configuration one{.name = fmt::format("layer {} {}", layer, text_of(codecs)), .policy = base_};
    one.policy.high = one.policy.low = {};
    one.policy.layers = {{.layer = layer, .high = {}, .low = codecs}};
    return one;
  }

  Result<std::vector<double>> losses_of(const std::vector<Configuration>& configurations,
                                        const std::string& phase) {
    const Watch watch = watch_items(progress_, arguments_.data, phase.c_str());
    auto losses = evaluation_->mean_kls(calibration_items_, configurations, references_, watch);
    progress_.clear();
    return losses;
  }

  // 1. The best spreads of every pair, in all layers alike.
  Status tune_pairs() {
    const bool can_rotate = std::has_single_bit(static_cast<unsigned>(head_dim()));
    for (const Codec k : codecs_)
      for (const Codec v : codecs_) {
        if (bits_of(k) < bits_of(v)) continue;
        std::vector<CodecPair> variants = tuned_variants(
            {.k = k, .v = v, .v_per_token = base_.low.v_per_token && !base_.segment_headers});
        std::erase_if(variants, [&](const CodecPair& one) { return one.k_rotated && !can_rotate; });
        std::vector<Configuration> configurations;
        for (const CodecPair& variant : variants)
          configurations.push_back(configuration(uniform(variant), text_of(variant)));
        VKV_TRY_ASSIGN(losses, losses_of(configurations,
                                         fmt::format("tuning {}/{}, KL on", name(k), name(v))));
        const size_t best =
            static_cast<size_t>(std::min_element(losses.begin(), losses.end()) - losses.begin());
        pairs_.push_back(variants[best]);
        if (!arguments_.data.quiet)
          fmt::print("{:<34} in all layers: {:.3f} bits, KL {:.6f}\n", text_of(variants[best]),
                     pair_bits(variants[best], head_dim()) / 2, losses[best]);
      }
    return {};
  }

  const CodecPair& tuned(Codec k, Codec v) const {
    return *std::find_if(pairs_.begin(), pairs_.end(),
                         [&](const CodecPair& pair) { return pair.k == k && pair.v == v; });
  }

  // 2. Each layer alone, K and V apart.
  Result<std::vector<LayerLoss>> measure_layers() {
    std::vector<Configuration> configurations;
    for (int layer = 0; layer < layer_count(); ++layer)
      for (const Codec codec : codecs_) {
        const CodecPair both = tuned(codec, codec);
        CodecPair v = both;
        v.k = Codec::kF16, v.k_rotated = false, v.k_spread = 1.0f;
        configurations.push_back(only_layer(layer, v));
        configurations.push_back(only_layer(layer, both));
      }
    VKV_TRY_ASSIGN(measured, losses_of(configurations, "measuring layers"));
    std::vector<LayerLoss> losses(static_cast<size_t>(layer_count()));
    size_t next = 0;
    for (LayerLoss& loss : losses)
      for (size_t codec = 0; codec < codecs_.size(); ++codec) {
        const double v = measured[next++];
        const double both = measured[next++];
        loss.v.push_back(v);
        loss.k.push_back(std::max(0.0, both - v));
      }
    return losses;
  }

  void print_losses(const std::vector<LayerLoss>& losses) const {
    if (arguments_.data.quiet) return;
    fmt::print("\nmean KL (1e-6 nats) when only this is encoded, {} items\n{:<8}",
               calibration_items_.size(), "layer");
    for (const char* part : {"K", "V"})
      for (const Codec codec : codecs_)
        fmt::print("{:>11}", fmt::format("{} {}", part, name(codec)));
    fmt::print("\n");
    for (size_t layer = 0; layer < losses.size(); ++layer) {
      fmt::print("{:<8}", layer);
      for (const auto* part : {&losses[layer].k, &losses[layer].v})
        for (const double loss : *part) fmt::print("{:>11.2f}", loss * 1e6);
      fmt::print("\n");
    }
  }

  // The plan that would be best if losses added up.
  Result<Plan> sum_plan(const std::vector<LayerLoss>& losses) const {
    std::vector<std::vector<LayerChoice>> choices;
    for (const LayerLoss& loss : losses) {
      choices.emplace_back();
      for (size_t k = 0; k < codecs_.size(); ++k)
        for (size_t v = k; v < codecs_.size(); ++v)  // codecs in falling order of bits
          choices.back().push_back(
              {.codecs = tuned(codecs_[k], codecs_[v]), .loss = loss.k[k] + loss.v[v]});
    }
    return plan_bits(choices, head_dim(), bits_max_);
  }

  // 3. The search; rivals_ are then all that the tests compare.
  Status search(const std::vector<LayerLoss>& losses) {
    VKV_TRY_ASSIGN(sum, sum_plan(losses));
    PlanSearchOptions options{
        .head_dim = head_dim(), .bits_max = bits_max_, .pairs = pairs_, .starts = {sum}};
    for (const CodecPair& pair : pairs_)
      if (fits(uniform(pair))) options.starts.push_back(uniform(pair));
    size_t count = 0;
    double least = INFINITY;
    const MeasurePlans measure = [&](std::span<const Plan> plans) -> Result<std::vector<double>> {
      std::vector<Configuration> configurations;
      for (const Plan& plan : plans) configurations.push_back(configuration(plan, "plan"));
      VKV_TRY_ASSIGN(measured,
                     losses_of(configurations,
                               count == 0 ? std::string("searching")
                                          : fmt::format("searching: {} plans, best KL {:.6f}, on",
                                                        count, least)));
      count += plans.size();
      least = std::min(least, *std::min_element(measured.begin(), measured.end()));
      return measured;
    };
    VKV_TRY_ASSIGN(found, search_plan(options, measure));
    print_plan(found);
    rivals_ = {configuration(found.plan, "plan")};
    if (found.unspread != found.plan)
      rivals_.push_back(configuration(found.unspread, "plan, spreads of pairs"));
    if (fits(base_plan())) {
      rivals_.push_back({.name = base_.name, .policy = base_});
      rivals_.back().policy.name = rivals_.front().policy.name;
    }
    for (const CodecPair& pair : pairs_)
      if (fits(uniform(pair))) rivals_.push_back(configuration(uniform(pair), text_of(pair)));
    return {};
  }

  void print_plan(const FoundPlan& found) const {
    if (arguments_.data.quiet) return;
    fmt::print("\nplan: {:.3f} bits a low value of {:.3f}, KL {:.6f}, best of {} plans\n",
               plan_bits_mean(found.plan, head_dim()), bits_max_, found.loss, found.measured_count);
    for (size_t layer = 0; layer < found.plan.size(); ++layer)
      fmt::print("  layer {:<4} {}\n", layer, text_of(found.plan[layer]));
  }

  // The plan against the base and every pair within the budget, on other items.
  Result<PrecisionPolicy> best_of_rivals() {
    const Watch watch = watch_items(progress_, arguments_.data, "testing");
    VKV_TRY_ASSIGN(results, evaluation_->run(test_items_, rivals_, watch));
    progress_.clear();
    for (const SourceResult& result : results)
      if (!result.error.empty()) return Status(Code::kInvalidArgument, result.error);
    std::vector<ConfigurationSummary> summaries;
    for (size_t i = 0; i < rivals_.size(); ++i)
      summaries.push_back(summarize(results, i, rivals_[i]));
    const auto best = static_cast<size_t>(
        std::min_element(summaries.begin(), summaries.end(),
                         [](const auto& a, const auto& b) { return a.kl_mean < b.kl_mean; }) -
        summaries.begin());
    print_rivals(summaries, best);
    return rivals_[best].policy;
  }

  void print_rivals(const std::vector<ConfigurationSummary>& summaries, size_t best) const {
    if (arguments_.data.quiet) return;
    fmt::print("\n  {:<34}{:>12}{:>12}{:>10}{:>14}{:>12}   on {} other items\n", "policy",
               "KL mean", "KL p99", "top-1", "bits encoded", "accuracy", test_items_.size());
    for (size_t i = 0; i < summaries.size(); ++i) {
      const ConfigurationSummary& summary = summaries[i];
      const Answers& answers = summary.answers;
      const std::string accuracy =
          answers.total() == 0
              ? "-"
              : fmt::format("{:.2f} %", 100.0 * static_cast<double>(answers.right) /
                                            static_cast<double>(answers.total()));
      fmt::print("{} {:<34}{:>12.6f}{:>12.6f}{:>8.2f} %{:>14.3f}{:>12}\n", i == best ? '*' : ' ',
                 summary.name, summary.kl_mean, summary.kl_p99, 100 * summary.top1,
                 summary.visual_encoded_bits, accuracy);
    }
    fmt::print("\n* has the least KL and is written to {}; use it with `vkv run --policy {}`{}\n",
               arguments_.out, arguments_.out,
               rivals_[best].name.starts_with("plan")
                   ? ""
                   : "\nThe plan by layer lost more on these items than on those that it was "
                     "searched on: more --calibration-items may help");
  }

  Status write(const PrecisionPolicy& policy) const {
    std::ofstream file(arguments_.out, std::ios::binary | std::ios::trunc);
    file << policy_text(policy);
    file.close();
    if (file) return {};
    return {Code::kIo, fmt::format("{}: cannot be written", arguments_.out)};
  }

  const CalibrateArguments& arguments_;
  Progress progress_;
  PrecisionPolicy base_;
  double bits_max_ = 0;           // of a low value, mean over layers
  std::vector<Codec> codecs_;     // in falling order of bits
  std::vector<CodecPair> pairs_;  // K >= V, with their best spreads
  std::unique_ptr<Evaluation> evaluation_;
  MeasuredData data_;
  std::vector<ItemSource> calibration_items_, test_items_;
  KeptReferences references_;  // of calibration_items_
  std::vector<Configuration> rivals_;
};

}  // namespace

void add_calibrate_flags(CLI::App& command, CalibrateArguments& a) {
  add_source_flags(command, a.data);
  command.add_option("--out", a.out, "Policy file to write")->required()->type_name("FILE");
  command.add_option("--base", a.base, "Preset, codec pair or policy file to start from")
      ->type_name("NAME")
      ->capture_default_str();
  command
      .add_option("--bits", a.bits,
                  "Budget: bits a low value, headers counted (default: those of the base)")
      ->type_name("BITS");
  command.add_option("--codecs", a.codecs, "Codecs to choose from")
      ->type_name("NAMES")
      ->capture_default_str();
  command
      .add_option("--calibration-items", a.data.calibration_items,
                  "Items at most that the search measures on")
      ->capture_default_str();
  command
      .add_option("--test-items", a.test_items,
                  "Other items at most that decide between the plan and uniform pairs")
      ->capture_default_str();
  add_reading_flags(command, a.data);
  add_program_flags(command, a.data);
  command.footer(kExamples);
}

int calibrate_command(const CalibrateArguments& arguments) {
  Calibration calibration(arguments);
  const Status status = calibration.run();
  if (status.ok()) return kExitDone;
  spdlog::error("{}", status.message());
  return status.code() == Code::kCancelled ? kExitInterrupted : kExitUsage;
}

}  // namespace vkv
