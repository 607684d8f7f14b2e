// quality_command.cpp: flags, the run, the table and the files.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/quality_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/base/stopwatch.h"
#include "tools/quality/evaluation.h"
#include "tools/quality/quality_report.h"
#include "tools/quality/quality_summary.h"
#include "tools/vkv/exit_code.h"
#include "tools/vkv/interrupt.h"
#include "tools/vkv/jobs.h"
#include "tools/vkv/progress.h"

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
  i8, i4, i2, i1, f16, i4/i2           everything that is old, in this pair of codecs (K/V)
  visual:i4, visual:i4/i2              only old visual tokens; the rest at 16 bit, as with baselines
  i1+segment, visual:i1+segment        low tokens of a window share their scales
  i2+rotated, i4+pertoken              K rotated by a Hadamard matrix; V scaled per token
  i1+spread:1.5, visual1+spread:1.5,1  levels moved apart, of K and V or of each
  visual1+tuned                        spreads, and whether K is rotated, are chosen
  policy.json                          a file, as for `vkv run --policy`
  absmax4, kivi4, kivi2                published baselines, in a simulated cache
  quantile4, quantile2, quantile1      clipped at quantiles; :0.01 sets tau
  calibquant2, calibquant1             shrunk ranges, calibrated scores; :0.5,0.3,0,3 sets kappa of
                                       K and V, tau1 and tau2
  lambda1                              visual:i1+segment with scores scaled by Cov/Var
  blank                                a control: old visual tokens are erased
  sim:NAME                             one of ours in the simulated cache, to check that
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

Status check(const QualityArguments& a) {
  if (a.jobs.empty() == a.text.empty())
    return wrong("give questions with --jobs, or a text with --text, one of them");
  if (a.limit < 0) return wrong("--limit must be 0 (all) or more");
  if (a.calibration_items < 1) return wrong("--calibration-items must be at least 1");
  if (a.threads < 0) return wrong("--threads must be 0 (all) or more");
  if (a.new_tokens_max < 1 || a.new_tokens_max > a.recent_tokens)
    return wrong(fmt::format("--max-tokens is {}; it must be 1 to --recent-tokens ({})",
                             a.new_tokens_max, a.recent_tokens));
  if (a.passage_role != "visual" && a.passage_role != "text")
    return wrong(fmt::format("--text-role is \"{}\"; there are visual and text", a.passage_role));
  if (!a.report.empty() && chart_script().empty())
    return wrong(
        "--report needs Chart.js, which this build has not: install libjs-chart.js "
        "(apt-get) and run cmake and the build again");
  return {};
}

// Jobs or passages, with the memory behind the sources.
struct Data {
  std::vector<JobLine> lines;
  std::vector<QualityItem> passages;
  std::vector<ItemSource> sources;
  uint64_t failure_count = 0;  // lines that are no jobs
};

Result<std::string> read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Status(Code::kIo, path + ": cannot be opened");
  return std::string(std::istreambuf_iterator<char>(file), {});
}

Status load_data(const QualityArguments& a, const Tokenizer& tokenizer, Data& data) {
  if (!a.text.empty()) {
    VKV_TRY_ASSIGN(text, read_text(a.text));
    Result<std::vector<QualityItem>> passages =
        passages_of_text(text, tokenizer,
                         {.token_count = a.passage_tokens,
                          .tail_count = a.passage_tail,
                          .passages_max = a.limit,
                          .new_tokens_max = a.new_tokens_max,
                          .role = a.passage_role == "text" ? Role::kText : Role::kVisual});
    if (!passages.ok())
      return {passages.status().code(), a.text + ": " + passages.status().message()};
    data.passages = std::move(passages.value());
    for (const QualityItem& passage : data.passages) data.sources.push_back({.passage = &passage});
    return {};
  }
  JobDefaults defaults;
  defaults.sampling.max_new_tokens = a.new_tokens_max;
  VKV_TRY_ASSIGN(lines, read_jobs(a.jobs, defaults));
  data.lines = std::move(lines);
  for (const JobLine& line : data.lines) {
    if (a.limit > 0 && data.sources.size() == static_cast<size_t>(a.limit)) break;
    if (line.job.ok()) {
      data.sources.push_back({.job = &line.job.value()});
    } else {
      spdlog::error("{}:{}: {}", a.jobs, line.line, line.job.status().message());
      ++data.failure_count;
    }
  }
  if (data.sources.empty()) return wrong(a.jobs + ": has no job that can be run");
  return {};
}

// Takes up to `count` of the sources with even index, evenly spread, out of them.
std::vector<ItemSource> take_calibration(std::vector<ItemSource>& sources, size_t count) {
  const size_t even = (sources.size() + 1) / 2;
  count = std::min(count, even);
  std::vector<ItemSource> taken, left;
  size_t next = 0;  // of the `count` to take
  for (size_t i = 0; i < sources.size(); ++i) {
    const bool take = i % 2 == 0 && next < count && i / 2 == next * even / count;
    next += take ? 1 : 0;
    (take ? taken : left).push_back(sources[i]);
  }
  sources = std::move(left);
  return taken;
}

Status write_file(const std::string& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (file) return {};
  return {Code::kIo, path + ": cannot be written"};
}

class QualityRun {
 public:
  explicit QualityRun(const QualityArguments& arguments)
      : arguments_(arguments), progress_(progress_mode(arguments_.quiet, arguments_.progress)) {}

  // Loads, calibrates, compares. Errors: of flags, model and data.
  Status run() {
    VKV_TRY(check(arguments_));
    VKV_TRY_ASSIGN(configurations, parse_configurations(arguments_.configurations));
    VKV_TRY_ASSIGN(view, question_view(arguments_.view));
    VKV_TRY_ASSIGN(style, prompt_style(arguments_.prompt_style));
    progress_.begin_phase("loading the model", "");
    VKV_TRY_ASSIGN(evaluation, Evaluation::open({.model_folder = arguments_.model,
                                                 .recent_tokens = arguments_.recent_tokens,
                                                 .threads = arguments_.threads,
                                                 .items = {.style = style, .view = view}}));
    progress_.clear();
    VKV_TRY(load_data(arguments_, evaluation->tokenizer(), data_));
    const bool calibrate =
        std::any_of(configurations.begin(), configurations.end(),
                    [](const Configuration& one) { return one.needs_calibration(); });
    if (calibrate) {
      const std::vector<ItemSource> some =
          take_calibration(data_.sources, static_cast<size_t>(arguments_.calibration_items));
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
    if (!arguments_.quiet) fmt::print("{}", quality_table(facts_, summaries_));
    bool failed = facts_.failure_count > 0;
    for (const ConfigurationSummary& summary : summaries_)
      failed |= summary.verdict == Verdict::kFail;
    const auto write = [&](const std::string& path, const std::string& content) {
      if (path.empty()) return;
      const Status status = write_file(path, content);
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
  Watch watch(const char* phase) {
    progress_.clear();
    progress_ = Progress(progress_mode(arguments_.quiet, arguments_.progress));
    progress_.begin_phase(phase, "items");
    return {.progress =
                [this](uint64_t done, uint64_t total) {
                  progress_.begin_job(std::min(done, total - 1), total);
                  progress_.update(0, 0);
                },
            .cancel = &catch_interrupts()};
  }

  void finish(const std::vector<SourceResult>& results) {
    facts_.model = arguments_.model;
    facts_.data = arguments_.text.empty() ? arguments_.jobs : arguments_.text;
    facts_.view = arguments_.text.empty()
                      ? arguments_.view
                      : fmt::format("passages of {} tokens, {} teacher-forced",
                                    arguments_.passage_tokens, arguments_.passage_tail);
    facts_.recent_tokens = arguments_.recent_tokens;
    facts_.interrupted = interrupted_;
    facts_.failure_count = data_.failure_count;
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
  Data data_;
  std::vector<Configuration> configurations_;
  std::vector<ConfigurationSummary> summaries_;
  QualityFacts facts_;
  bool interrupted_ = false;
};

}  // namespace

void add_quality_flags(CLI::App& command, QualityArguments& a) {
  command.add_option("--model", a.model, "Folder of a checkpoint")->required()->type_name("DIR");
  command.add_option("--jobs", a.jobs, "Questions: a file as for `vkv run --jobs`")
      ->type_name("FILE");
  command.add_option("--text", a.text, "Instead: a text, for a language model")->type_name("FILE");
  command.add_option("--configs", a.configurations, "What to compare, see below")
      ->type_name("NAMES")
      ->capture_default_str();
  command.add_option("--limit", a.limit, "First so many jobs or passages; 0: all")
      ->capture_default_str();
  command
      .add_option("--calibration-items", a.calibration_items,
                  "Items at most that choose parameters of baselines")
      ->capture_default_str();
  command.add_option("--recent-tokens", a.recent_tokens, "Newest tokens kept at 16 bit, 16..4096")
      ->capture_default_str();
  command.add_option("--max-tokens", a.new_tokens_max, "Longest answer or continuation")
      ->capture_default_str();
  command.add_option("--view", a.view, "How questions see their media: auto, shared, window")
      ->type_name("NAME")
      ->capture_default_str();
  command.add_option("--prompt-style", a.prompt_style, "auto, question, llava-qwen or plain")
      ->type_name("NAME")
      ->capture_default_str();
  const std::string text = "Text";
  command.add_option("--tokens", a.passage_tokens, "Tokens of a passage")
      ->capture_default_str()
      ->group(text);
  command.add_option("--tail", a.passage_tail, "Of them, teacher-forced at the end")
      ->capture_default_str()
      ->group(text);
  command.add_option("--text-role", a.passage_role, "What the stored part counts as: visual, text")
      ->type_name("ROLE")
      ->capture_default_str()
      ->group(text);
  const std::string group = "Program";
  command.add_option("--report", a.report, "Write the table and plots as one HTML file")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--json", a.json, "Write the table as JSON")->type_name("FILE")->group(group);
  command.add_option("--threads", a.threads, "Worker threads; 0: all that the process may use")
      ->capture_default_str()
      ->group(group);
  command.add_flag("--progress", a.progress, "Show progress even if this is no terminal")
      ->group(group);
  command.add_flag("-q,--quiet", a.quiet, "No progress and no table")->group(group);
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
