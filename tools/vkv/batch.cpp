// batch.cpp: works through the jobs that have no answer yet.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/batch.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/vkv/exit_code.h"
#include "tools/vkv/interrupt.h"

namespace vkv {
namespace {

using Clock = std::chrono::steady_clock;

// What is left to do of one line of the jobs file.
struct PendingJob {
  const JobLine* line = nullptr;
  std::vector<size_t> questions;  // without an answer; none for a line that is no job
};

class Batch : public AnswerListener {
 public:
  Batch(const RunArguments& arguments, const SessionOptions& options, AnswerFile answers)
      : arguments_(arguments),
        options_(options),
        settings_(answer_settings(arguments)),
        answers_(std::move(answers)),
        facts_(run_facts(arguments, options)),
        progress_(progress_mode(arguments.quiet, arguments.progress)) {}

  // Counts the answers that are there and lists what is missing. Errors: kInvalidArgument for an
  // answer to another question or with other settings.
  Status plan(const std::vector<JobLine>& lines) {
    for (const JobLine& line : lines) {
      PendingJob pending{&line, {}};
      const size_t question_count = line.job.ok() ? line.job.value().questions.size() : 0;
      for (size_t q = 0; q < question_count; ++q) {
        const AnswerRecord* earlier = answers_.find(line.id, static_cast<int64_t>(q));
        if (earlier == nullptr) {
          pending.questions.push_back(q);
        } else if (earlier->hash == question_hash(line.job.value(), q, settings_)) {
          totals_.add(*earlier);
          ++facts_.earlier_count;
        } else {
          return {Code::kInvalidArgument,
                  fmt::format("{}: has an answer for id \"{}\" to another question or with another "
                              "model, preset or sampling; choose another --out, or --restart to "
                              "begin anew",
                              arguments_.out, line.id)};
        }
      }
      if (!line.job.ok() || !pending.questions.empty()) pending_.push_back(std::move(pending));
    }
    return {};
  }

  int run() {
    const std::atomic<bool>& cancel = catch_interrupts();
    if (facts_.earlier_count > 0) {
      spdlog::info("{} answers are there already; {} jobs to do", facts_.earlier_count,
                   pending_.size());
    }
    std::unique_ptr<Session> session;
    if (needs_model()) {
      Result<std::unique_ptr<Session>> opened = Session::open(options_, &progress_, &cancel);
      progress_.clear();
      if (!opened.ok()) {
        spdlog::error("{}", opened.status().message());
        return kExitUsage;
      }
      session = std::move(opened.value());
      log_session(*session);
      facts_.engine = session->engine();
      facts_.io_engine = session->io_engine();
    }
    const Clock::time_point start = Clock::now();
    for (size_t i = 0; i < pending_.size() && write_status_.ok(); ++i) {
      if (cancel.load()) facts_.interrupted = true;
      if (facts_.interrupted) break;
      progress_.begin_job(i, pending_.size());
      run_job(session.get(), pending_[i]);
    }
    if (session) facts_.cache = session->cache_stats();
    session.reset();  // removes the store before anything else is said
    progress_.clear();
    facts_.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    report();
    if (facts_.interrupted) return kExitInterrupted;
    return facts_.failure_count == 0 && write_status_.ok() ? kExitDone : kExitSomeFailed;
  }

  Status answered(const Job& job, size_t question, AnswerRecord record) override {
    record.hash = question_hash(job, question, settings_);
    totals_.add(record);
    return write(to_json(record));
  }

  Status failed(const Job& job, size_t question, const Status& reason) override {
    return fail({job.id, job.line, static_cast<int64_t>(question), reason.message()});
  }

 private:
  bool needs_model() const {
    for (const PendingJob& pending : pending_) {
      if (!pending.questions.empty()) return true;
    }
    return false;
  }

  void run_job(Session* session, const PendingJob& pending) {
    Status status = pending.line->job.status();
    if (status.ok()) status = session->run(pending.line->job.value(), pending.questions, *this);
    if (status.ok() || !write_status_.ok()) return;
    if (status.code() == Code::kCancelled) {
      facts_.interrupted = true;
      return;
    }
    // A failure to write it is in write_status_ then.
    (void)fail({pending.line->id, pending.line->line, -1, status.message()});
  }

  Status fail(const FailureRecord& record) {
    ++facts_.failure_count;
    progress_.clear();
    spdlog::error("{}:{}: {}", arguments_.jobs, record.line, record.error);
    return write(to_json(record));
  }

  // An answer that cannot be kept ends the batch.
  Status write(const nlohmann::json& record) {
    write_status_ = answers_.append(record);
    return write_status_;
  }

  void report() {
    if (!write_status_.ok()) spdlog::error("{}", write_status_.message());
    if (facts_.interrupted) {
      spdlog::error("interrupted; {} answers are in {}: run the same command again to go on",
                    totals_.answer_count(), arguments_.out);
    }
    if (arguments_.json) {
      fmt::print("{}\n", totals_.json(facts_).dump(1));
    } else if (!arguments_.quiet) {
      fmt::print("{}", totals_.table(facts_));
    }
  }

  const RunArguments& arguments_;
  const SessionOptions& options_;
  const std::string settings_;
  AnswerFile answers_;
  std::vector<PendingJob> pending_;
  Totals totals_;
  RunFacts facts_;
  Progress progress_;
  Status write_status_;
};

}  // namespace

int run_batch(const RunArguments& arguments, const SessionOptions& options) {
  const auto usage = [](const Status& status) {
    spdlog::error("{}", status.message());
    return kExitUsage;
  };
  Result<std::vector<JobLine>> lines = read_jobs(arguments.jobs, job_defaults(arguments));
  if (!lines.ok()) return usage(lines.status());
  Result<AnswerFile> answers = AnswerFile::open(arguments.out, arguments.restart);
  if (!answers.ok()) return usage(answers.status());
  Batch batch(arguments, options, std::move(answers.value()));
  if (Status status = batch.plan(lines.value()); !status.ok()) return usage(status);
  return batch.run();
}

}  // namespace vkv
