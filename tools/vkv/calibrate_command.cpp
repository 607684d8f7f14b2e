// calibrate_command.cpp: measures layers one by one, plans, and measures the plan.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/calibrate_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "tools/quality/evaluation.h"
#include "tools/quality/quality_summary.h"
#include "tools/vkv/bit_plan.h"
#include "tools/vkv/exit_code.h"
#include "tools/vkv/interrupt.h"
#include "tools/vkv/policy_file.h"
#include "tools/vkv/progress.h"

namespace vkv {
namespace {

constexpr const char* kExamples = R"(
Examples:
  vkv calibrate --model tiny --jobs jobs.jsonl --out tiny.json
  vkv calibrate --model tiny --jobs jobs.jsonl --base extreme --bits 2.25 --out tiny2.json
  vkv run --model tiny --policy tiny.json ...

Every second job (or passage) calibrates, the others test. For each layer, and for K and V apart,
the mean KL of the logits is measured when only that part of that layer is encoded; as K never has
fewer bits than V, K's share is that of K and V together less that of V. The plan has the least sum
under the budget (exact). If the base fits the budget and loses less on the calibration items, its
codecs stay: losses of single layers need not add up. The result is measured on the test half.)";

Status wrong(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }

// Loss of each codec in one layer, in the order of the codecs.
struct LayerLoss {
  std::vector<double> k, v;
};

class Calibration {
 public:
  explicit Calibration(const CalibrateArguments& arguments)
      : arguments_(arguments),
        progress_(progress_mode(arguments_.data.quiet, arguments_.data.progress)) {}

  // Errors: of flags, model and data; kCancelled.
  Status run() {
    VKV_TRY(prepare());
    VKV_TRY_ASSIGN(losses, measure_layers());
    print_losses(losses);
    VKV_TRY_ASSIGN(planned, plan(losses));
    VKV_TRY_ASSIGN(policy, better_of_base_and(planned));
    VKV_TRY(write(policy));
    return compare(policy);
  }

 private:
  Watch watch(const char* phase) { return watch_items(progress_, arguments_.data, phase); }

  Status prepare() {
    VKV_TRY(check(arguments_.data));
    VKV_TRY_ASSIGN(base, policy_from(arguments_.base));
    base_ = base;
    std::istringstream names(arguments_.codecs);
    for (std::string codec; std::getline(names, codec, ',');) {
      const Result<PrecisionPolicy> pair = policy_from(codec);
      if (!pair.ok() || pair.value().low.k != pair.value().low.v || is_16_bit(pair.value().low.k) ||
          codec.find('/') != std::string::npos)
        return wrong(fmt::format("--codecs has \"{}\"; there are i8, i4, i2 and i1", codec));
      codecs_.push_back(pair.value().low.k);
    }
    std::sort(codecs_.begin(), codecs_.end());
    codecs_.erase(std::unique(codecs_.begin(), codecs_.end()), codecs_.end());
    if (codecs_.empty()) return wrong("--codecs is empty");
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
    calibration_items_ = take_calibration(test_items_, test_items_.size());
    if (test_items_.empty()) return wrong("two items are needed: one calibrates, one tests");
    return {};
  }

  // Everything at 16 bit but the low tokens of one layer.
  Configuration only_layer(int layer, const CodecPair& codecs) const {
    Configuration configuration;
    configuration.name = fmt::format("layer {} {}/{}", layer, name(codecs.k), name(codecs.v));
    configuration.policy = base_;
    configuration.policy.high = configuration.policy.low = {};
    configuration.policy.layers = {{.layer = layer, .high = {}, .low = codecs}};
    return configuration;
  }

  Result<std::vector<SourceResult>> evaluate(const std::vector<ItemSource>& items,
                                             const std::vector<Configuration>& configurations,
                                             const char* phase) {
    VKV_TRY_ASSIGN(results, evaluation_->run(items, configurations, watch(phase)));
    progress_.clear();
    for (const SourceResult& result : results)
      if (!result.error.empty()) return Status(Code::kInvalidArgument, result.error);
    return std::move(results);
  }

  Result<std::vector<LayerLoss>> measure_layers() {
    const int layer_count = evaluation_->model_config().kv_shape().layers;
    std::vector<Configuration> configurations;
    for (int layer = 0; layer < layer_count; ++layer)
      for (const Codec codec : codecs_) {
        configurations.push_back(only_layer(layer, {.k = Codec::kF16, .v = codec}));
        configurations.push_back(only_layer(layer, {.k = codec, .v = codec}));
      }
    VKV_TRY_ASSIGN(results, evaluate(calibration_items_, configurations, "measuring layers"));
    std::vector<LayerLoss> losses(static_cast<size_t>(layer_count));
    size_t next = 0;
    for (LayerLoss& loss : losses)
      for (size_t codec = 0; codec < codecs_.size(); ++codec) {
        const double v = mean_kl(results, next++);
        const double both = mean_kl(results, next++);
        loss.v.push_back(v);
        loss.k.push_back(std::max(0.0, both - v));
      }
    return losses;
  }

  void print_losses(const std::vector<LayerLoss>& losses) const {
    if (arguments_.data.quiet) return;
    fmt::print("mean KL (1e-6 nats) when only this is encoded, {} items\n{:<8}",
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

  Result<PrecisionPolicy> plan(const std::vector<LayerLoss>& losses) const {
    const int head_dim = evaluation_->model_config().kv_shape().head_dim;
    std::vector<std::vector<LayerChoice>> choices;
    for (const LayerLoss& loss : losses) {
      choices.emplace_back();
      for (size_t k = 0; k < codecs_.size(); ++k)
        for (size_t v = k; v < codecs_.size(); ++v)  // codecs in falling order of bits
          choices.back().push_back(
              {.codecs = {.k = codecs_[k], .v = codecs_[v]}, .loss = loss.k[k] + loss.v[v]});
    }
    VKV_TRY_ASSIGN(pairs, plan_bits(choices, head_dim, bits_max()));
    PrecisionPolicy policy = base_;
    policy.name = std::filesystem::path(arguments_.out).stem().string();
    policy.layers.clear();
    double bits = 0;
    for (size_t layer = 0; layer < pairs.size(); ++layer) {
      bits += pair_bits(pairs[layer], head_dim) / 2 / static_cast<double>(pairs.size());
      policy.layers.push_back(
          {.layer = static_cast<int>(layer), .high = base_.high, .low = pairs[layer]});
    }
    if (!arguments_.data.quiet) {
      fmt::print("\nplan: {:.3f} bits a low value of {:.3f};", bits, bits_max());
      for (const LayerPrecision& own : policy.layers)
        fmt::print(" {}:{}/{}", own.layer, name(own.low.k), name(own.low.v));
      fmt::print("\n");
    }
    return policy;
  }

  double bits_max() const {
    const int head_dim = evaluation_->model_config().kv_shape().head_dim;
    return arguments_.bits > 0 ? arguments_.bits : pair_bits(base_.low, head_dim) / 2;
  }

  // Losses of single layers add up only while they are small, so the plan has to show itself. Where
  // the base fits the budget and loses less on the calibration items, its codecs stay.
  Result<PrecisionPolicy> better_of_base_and(const PrecisionPolicy& planned) {
    const int head_dim = evaluation_->model_config().kv_shape().head_dim;
    if (!base_.layers.empty() || pair_bits(base_.low, head_dim) / 2 > bits_max() + 1e-9)
      return planned;
    const std::vector<Configuration> both = {{.name = base_.name, .policy = base_},
                                             {.name = planned.name, .policy = planned}};
    VKV_TRY_ASSIGN(results, evaluate(calibration_items_, both, "checking the plan"));
    const double before = mean_kl(results, 0), after = mean_kl(results, 1);
    if (!arguments_.data.quiet)
      fmt::print("on the calibration items: KL {:.6f} with {}, {:.6f} with the plan{}\n", before,
                 base_.name, after, after < before ? "" : ": the base's codecs stay");
    if (after < before) return planned;
    PrecisionPolicy kept = base_;
    kept.name = planned.name;
    return kept;
  }

  Status write(const PrecisionPolicy& policy) const {
    std::ofstream file(arguments_.out, std::ios::binary | std::ios::trunc);
    file << policy_text(policy);
    file.close();
    if (file) return {};
    return {Code::kIo, fmt::format("{}: cannot be written", arguments_.out)};
  }

  Status compare(const PrecisionPolicy& policy) {
    Configuration before, after;
    before.name = base_.name;
    before.policy = base_;
    after.name = policy.name;
    after.policy = policy;
    const std::vector<Configuration> configurations = {before, after};
    VKV_TRY_ASSIGN(results, evaluate(test_items_, configurations, "testing the plan"));
    if (arguments_.data.quiet) return {};
    fmt::print("\n{:<20}{:>12}{:>12}{:>10}{:>14}{:>12}   on {} other items\n", "policy", "KL mean",
               "KL p99", "top-1", "bits encoded", "accuracy", test_items_.size());
    for (size_t i = 0; i < configurations.size(); ++i) {
      const ConfigurationSummary summary = summarize(results, i, configurations[i]);
      const std::string accuracy =
          summary.answers.total() == 0
              ? "-"
              : fmt::format("{:.2f} %", 100.0 * static_cast<double>(summary.answers.right) /
                                            static_cast<double>(summary.answers.total()));
      fmt::print("{:<20}{:>12.6f}{:>12.6f}{:>8.2f} %{:>14.3f}{:>12}\n", summary.name,
                 summary.kl_mean, summary.kl_p99, 100 * summary.top1, summary.visual_encoded_bits,
                 accuracy);
    }
    fmt::print("\nwritten: {}; use it with `vkv run --policy {}`\n", arguments_.out,
               arguments_.out);
    return {};
  }

  const CalibrateArguments& arguments_;
  Progress progress_;
  PrecisionPolicy base_;
  std::vector<Codec> codecs_;  // in falling order of bits
  std::unique_ptr<Evaluation> evaluation_;
  MeasuredData data_;
  std::vector<ItemSource> calibration_items_, test_items_;
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
