// quality_command.cpp: flags, the run, the table and the files.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/quality_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/base/stopwatch.h"
#include "tools/quality/evaluation.h"
#include "tools/quality/quality_report.h"
#include "tools/quality/quality_summary.h"
#include "tools/vkv/exit_code.h"
#include "tools/vkv/interrupt.h"
#include "tools/vkv/progress.h"
#include "tools/vkv/text_file.h"

namespace vkv {
namespace {

constexpr const char* kExamples = R"(
Examples:
  vkv quality --model tiny --jobs jobs.jsonl
  vkv quality --model tiny --jobs jobs.jsonl --configs exact,visual2,visual:i2,kivi2,quantile2 \
      --report quality.html --json quality.json
  vkv quality --model lm --text book.txt --configs exact,i8,i4,i4/i2,i2 --tokens 2048

The reference keeps all KV at 16 bit and answers greedily. Every configuration is fed the same
tokens; its logits are compared at each position of the answer, and it also answers by itself.

Configurations, separated by commas:
  exact, safe, balanced, visual2, ...  a preset of `vkv run`
  i8, i4, i2, i1, f16, i4/i2           everything that is old, in this pair of codecs (K/V); V of
                                       text at 4 bits and fewer has scales per token, as in presets
  visual:i4, visual:i4/i2              only old visual tokens; the rest at 16 bit, as with baselines
  i1+segment, visual:i1+segment        low tokens of a window share their scales
  i2+rotated, i4+pertoken              K rotated by a Hadamard matrix; V scaled per token
  i1+spread:1.5, visual1+spread:1.5,1  levels moved apart, of K and V or of each
  visual1+tuned                        spreads, and whether K is rotated, are chosen
  extreme+originals                    16-bit originals of low tokens are kept (`vkv run
                                       --keep-original dram`): questions read them, and tokens that
                                       they look at are promoted; not in the bits. Also +tuned
  policy.json                          a file, as for `vkv run --policy`
  absmax4, kivi4, kivi2                published baselines, in a simulated cache
  quantile4, quantile2, quantile1      clipped at quantiles; :0.01 sets tau
  calibquant2, calibquant1             shrunk ranges, calibrated scores; :0.5,0.3,0,3 sets kappa of
                                       K and V, tau1 and tau2
  lambda1                              visual:i1+segment with scores scaled by Cov/Var
  blank                                a control: old visual tokens are erased
  sim:NAME                             one of ours in the simulated cache, its bits counted as the
                                       baselines' are: with the mean of K, without padding
What the name of a baseline leaves open is chosen on --calibration-items items with even index
(four questions of each), which are then left out of the table.

--view says which tokens are encoded when a question is read:
  auto    as `vkv run`: shared for several questions over the same media, else window
  shared  the media are a prefill window of their own; the question reads encoded media
  window  the question is in the media's window, all but its last token, and decides what is salient

--text compares a language model on passages of --tokens tokens: the first part is stored, the last
--tail tokens are teacher-forced in one go. The first part plays the part of visual tokens, so that
policies by role encode it; --text-role text treats it as text.

Gates (mean KL, same top-1, points of accuracy lost): i8 .002 99 % .2; i4 and balanced .01 97 % .5;
visual2 .03 95 % 1; visual1 .1 90 % 2. Accuracy is judged by the paired 95 % interval: PASS if all
of it is within the gate, FAIL if the loss is beyond, else OPEN: more questions would tell.

Exit status: 0 no gate failed, 1 a gate or some items failed, 2 wrong flags, model or data,
130 interrupted (the table then says what was done).)";

Status wrong(std::string message) { return {Code::kInvalidArgument, std::move(message)}; }

Status check(const QualityArguments& arguments) {
  const MeasuredDataArguments& data = arguments.data;
  VKV_TRY(check(data));
  if (data.new_tokens_max < 1 || data.new_tokens_max > data.recent_tokens)
    return wrong(fmt::format("--max-tokens is {}; it must be 1 to --recent-tokens ({})",
                             data.new_tokens_max, data.recent_tokens));
  if (data.passage_role != "visual" && data.passage_role != "text")
    return wrong(
        fmt::format("--text-role is \"{}\"; there are visual and text", data.passage_role));
  if (!arguments.report.empty() && chart_script().empty())
    return wrong(
        "--report needs Chart.js, which this build has not: install libjs-chart.js "
        "(apt-get) and run cmake and the build again");
  return {};
}

class QualityRun {
 public:
  explicit QualityRun(const QualityArguments& arguments)
      : arguments_(arguments),
        progress_(progress_mode(arguments_.data.quiet, arguments_.data.progress)) {}

  // Loads, calibrates, compares. Errors: of flags, model and data.
  Status run() {
    VKV_TRY(check(arguments_));
    VKV_TRY_ASSIGN(configurations, parse_configurations(arguments_.configurations));
    progress_.begin_phase("loading the model", "");
    VKV_TRY_ASSIGN(evaluation, open_evaluation(arguments_.data));
    progress_.clear();
    VKV_TRY_ASSIGN(data, load_measured_data(arguments_.data, evaluation->tokenizer()));
    data_ = std::move(data);
    for (const std::string& failure : data_.failures) spdlog::error("{}", failure);
    if (data_.sources.empty()) return wrong(arguments_.data.jobs + ": has no job that can be run");
    const bool calibrate =
        std::any_of(configurations.begin(), configurations.end(),
                    [](const Configuration& one) { return one.needs_calibration(); });
    if (calibrate) {
      const std::vector<ItemSource> some =
          take_calibration(data_.sources, static_cast<size_t>(arguments_.data.calibration_items));
      if (data_.sources.empty())
        return wrong("there is a single item: none is left to choose parameters of baselines on");
      facts_.calibration_count = some.size();
      VKV_TRY(evaluation->calibrate(some, configurations, watch("calibrating baselines")));
    }
    configurations_ = std::move(configurations);
    std::vector<SourceResult> partial;
    Result<std::vector<SourceResult>> results =
        evaluation->run(data_.sources, configurations_, watch("comparing"), &partial);
    progress_.clear();
    interrupted_ = results.status().code() == Code::kCancelled;
    if (!results.ok() && !interrupted_) return results.status();
    finish(results.ok() ? results.value() : partial);
    return {};
  }

  int report() {
    progress_.clear();
    if (summaries_.empty() || summaries_.front().case_count == 0) {
      spdlog::error("nothing was compared");
      return interrupted_ ? kExitInterrupted : kExitUsage;
    }
    if (!arguments_.data.quiet) fmt::print("{}", quality_table(facts_, summaries_));
    bool failed = facts_.failure_count > 0;
    for (const ConfigurationSummary& summary : summaries_)
      failed |= summary.verdict == Verdict::kFail;
    const auto write = [&](const std::string& path, const std::string& content) {
      if (path.empty()) return;
      const Status status = write_text_file(path, content);
      if (!status.ok()) spdlog::error("{}", status.message());
      failed |= !status.ok();
    };
    write(arguments_.json, quality_json(facts_, summaries_)
                                   .dump(1, ' ', false, nlohmann::json::error_handler_t::replace) +
                               "\n");
    write(arguments_.report, quality_report(facts_, summaries_, chart_script()));
    if (interrupted_) return kExitInterrupted;
    return failed ? kExitSomeFailed : kExitDone;
  }

 private:
  Watch watch(const char* phase) { return watch_items(progress_, arguments_.data, phase); }

  void finish(const std::vector<SourceResult>& results) {
    const MeasuredDataArguments& data = arguments_.data;
    facts_.model = data.model;
    facts_.data = data.text.empty() ? data.jobs : data.text;
    facts_.view = data.text.empty() ? data.view
                                    : fmt::format("passages of {} tokens, {} teacher-forced",
                                                  data.passage_tokens, data.passage_tail);
    facts_.recent_tokens = data.recent_tokens;
    facts_.interrupted = interrupted_;
    facts_.failure_count = data_.failures.size();
    facts_.seconds = since_start_.seconds();
    for (const SourceResult& result : results) {
      facts_.source_count += result.rows.empty() ? 0 : 1;
      if (result.error.empty()) continue;
      spdlog::error("{}", result.error);
      ++facts_.failure_count;
    }
    for (size_t i = 0; i < configurations_.size(); ++i)
      summaries_.push_back(summarize(results, i, configurations_[i]));
  }

  const QualityArguments& arguments_;
  const Stopwatch since_start_;
  Progress progress_;
  MeasuredData data_;
  std::vector<Configuration> configurations_;
  std::vector<ConfigurationSummary> summaries_;
  QualityFacts facts_;
  bool interrupted_ = false;
};

}  // namespace

void add_quality_flags(CLI::App& command, QualityArguments& a) {
  add_source_flags(command, a.data);
  command.add_option("--configs", a.configurations, "What to compare, see below")
      ->type_name("NAMES")
      ->capture_default_str();
  command
      .add_option("--calibration-items", a.data.calibration_items,
                  "Items at most that choose parameters of baselines")
      ->capture_default_str();
  add_reading_flags(command, a.data);
  command
      .add_option("--text-role", a.data.passage_role,
                  "What the stored part counts as: visual, text")
      ->type_name("ROLE")
      ->capture_default_str()
      ->group("Text");
  const std::string group = "Program";
  command.add_option("--report", a.report, "Write the table and plots as one HTML file")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--json", a.json, "Write the table as JSON")->type_name("FILE")->group(group);
  add_program_flags(command, a.data);
  command.footer(kExamples);
}

int quality_command(const QualityArguments& arguments) {
  (void)catch_interrupts();
  QualityRun run(arguments);
  if (Status status = run.run(); !status.ok()) {
    // Ctrl-C while calibrating: there is nothing to show yet.
    spdlog::error("{}", status.message());
    return status.code() == Code::kCancelled ? kExitInterrupted : kExitUsage;
  }
  return run.report();
}

}  // namespace vkv
