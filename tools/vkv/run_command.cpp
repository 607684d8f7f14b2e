// run_command.cpp: one job from flags; batch.cpp does the rest.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/run_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "tools/vkv/batch.h"
#include "tools/vkv/exit_code.h"
#include "tools/vkv/interrupt.h"
#include "tools/vkv/summary.h"

namespace vkv {
namespace {

using Clock = std::chrono::steady_clock;

// Prints answers as they grow, or collects them for --json.
class SingleListener : public AnswerListener {
 public:
  SingleListener(const RunArguments& arguments, Progress* progress)
      : arguments_(arguments), progress_(progress) {}

  void begin(const Job& job, size_t question) override {
    if (arguments_.json || job.questions.size() == 1) return;
    progress_->clear();
    fmt::print("{}> {}\n", question == 0 ? "" : "\n", job.questions[question].prompt);
  }

  void text(std::string_view piece) override {
    if (arguments_.json) return;
    // Models put a space before the first word.
    if (!line_open_) piece.remove_prefix(std::min(piece.find_first_not_of(' '), piece.size()));
    line_open_ = line_open_ || !piece.empty();
    progress_->clear();
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  }

  Status answered(const Job& job, size_t question, AnswerRecord record) override {
    record.hash = question_hash(job, question, answer_settings(arguments_));
    totals_.add(record);
    answers_.push_back(to_json(record));
    end_line();
    return {};
  }

  Status failed(const Job&, size_t, const Status& reason) override {
    spdlog::error("{}{}", close_half_answer(), reason.message());
    ++failure_count_;
    return {};
  }

  // Ends the line of an answer that broke off; returns what the message begins with then.
  std::string_view close_half_answer() {
    if (!line_open_) return "";
    end_line();
    return "the answer is not complete: ";
  }

  const Totals& totals() const { return totals_; }
  const nlohmann::json& answers() const { return answers_; }
  uint64_t failure_count() const { return failure_count_; }

 private:
  void end_line() {
    if (!arguments_.json) std::fputs("\n", stdout);
    std::fflush(stdout);
    line_open_ = false;
  }

  const RunArguments& arguments_;
  Progress* progress_;
  bool line_open_ = false;
  Totals totals_;
  nlohmann::json answers_ = nlohmann::json::array();
  uint64_t failure_count_ = 0;
};

int run_single(const RunArguments& arguments, const SessionOptions& options) {
  const std::atomic<bool>& cancel = catch_interrupts();
  Progress progress(progress_mode(arguments.quiet, arguments.progress));
  Result<std::unique_ptr<Session>> session = Session::open(options, &progress, &cancel);
  progress.clear();
  if (!session.ok()) {
    spdlog::error("{}", session.status().message());
    return kExitUsage;
  }
  log_session(*session.value());

  const Clock::time_point start = Clock::now();
  const Job job = job_of(arguments);
  std::vector<size_t> questions(job.questions.size());
  std::iota(questions.begin(), questions.end(), size_t{0});
  SingleListener listener(arguments, &progress);
  const Status status = session.value()->run(job, questions, listener);
  progress.clear();
  const bool interrupted = status.code() == Code::kCancelled;
  if (!status.ok()) spdlog::error("{}{}", listener.close_half_answer(), status.message());

  RunFacts facts = run_facts(arguments, options);
  facts.engine = session.value()->engine();
  facts.io_engine = session.value()->io_engine();
  facts.cache = session.value()->cache_stats();
  facts.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  facts.failure_count = listener.failure_count() + (status.ok() ? 0 : 1);
  facts.interrupted = interrupted;
  if (arguments.json) {
    const nlohmann::json json = {{"answers", listener.answers()},
                                 {"summary", listener.totals().json(facts)}};
    fmt::print("{}\n", json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else if (!arguments.quiet && listener.totals().answer_count() > 0) {
    fmt::print(stderr, "\n{}", listener.totals().table(facts));
  }
  if (interrupted) return kExitInterrupted;
  return facts.failure_count == 0 ? kExitDone : kExitSomeFailed;
}

}  // namespace

RunFacts run_facts(const RunArguments& arguments, const SessionOptions& options) {
  RunFacts facts;
  facts.model = arguments.model;
  facts.preset = options.cache.precision.name;
  facts.dram_bytes_max = options.cache.dram_bytes_max;
  facts.nvme_bytes_max = options.cache.nvme_bytes_max;
  return facts;
}

void log_session(const Session& session) {
  const CacheOptions& options = session.cache_options();
  spdlog::info("model: {} layers, {} query heads, {} KV heads of {} channels", options.shape.layers,
               options.shape.q_heads, options.shape.kv_heads, options.shape.head_dim);
  spdlog::info("weights: {} MiB in memory, loaded in {:.2f} s", session.weight_bytes() >> 20,
               session.load_seconds());
  spdlog::info("attention: {}; store: {} {}", session.engine(), session.io_engine(),
               options.store_path);
  spdlog::info("media: {}", media_decoder_name());
}

int run_command(const RunArguments& arguments) {
  if (Status status = check_arguments(arguments); !status.ok()) {
    spdlog::error("{}", status.message());
    return kExitUsage;
  }
  Result<SessionOptions> options = session_options(arguments);
  if (!options.ok()) {
    spdlog::error("{}", options.status().message());
    return kExitUsage;
  }
  return arguments.jobs.empty() ? run_single(arguments, options.value())
                                : run_batch(arguments, options.value());
}

}  // namespace vkv
