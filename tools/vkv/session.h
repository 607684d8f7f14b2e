// session.h: a loaded model with its cache, answering jobs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/vkv/answers.h"
#include "tools/vkv/host.h"
#include "tools/vkv/job_media.h"
#include "tools/vkv/jobs.h"
#include "tools/vkv/progress.h"

namespace vkv {

// Hears of answers as they come. All calls are on the thread that called run().
class AnswerListener {
 public:
  virtual ~AnswerListener() = default;
  virtual void begin(const Job&, size_t /*question*/) {}
  virtual void text(std::string_view /*piece*/) {}
  // An error stops the job and is returned by run(). `record` has no hash yet.
  virtual Status answered(const Job& job, size_t question, AnswerRecord record) = 0;
  // One question failed; the others of the job go on.
  virtual Status failed(const Job& job, size_t question, const Status& reason) = 0;
};

// One thread.
class Session {
 public:
  // Errors: those of Model, Tokenizer, load_media_processor and Cache.
  static Result<std::unique_ptr<Session>> open(const SessionOptions& options, Progress* progress,
                                               const std::atomic<bool>* cancel);

  // Answers `questions` (indices) of the job. A job with several questions keeps the KV of its
  // media and forks it for each. Errors: what keeps the whole job from being answered, kCancelled,
  // and the listener's.
  Status run(const Job& job, std::span<const size_t> questions, AnswerListener& listener);

  std::string engine() const { return host_.cache->engine(); }
  std::string io_engine() const { return host_.cache->io_engine(); }
  double load_seconds() const { return host_.load_seconds; }
  uint64_t weight_bytes() const { return host_.model->weight_bytes(); }
  const CacheOptions& cache_options() const { return host_.cache->options(); }
  CacheStats cache_stats() const { return host_.cache->stats(); }

 private:
  Session(Host host, Progress* progress, const std::atomic<bool>* cancel)
      : host_(std::move(host)), progress_(progress), cancel_(cancel) {}

  Status check_cancel() const { return Watch{.cancel = cancel_}.check(); }
  Watch watch(std::string_view phase, std::string_view unit, uint64_t per_unit);
  // What the questions of a job are about.
  struct Subject {
    std::unique_ptr<MediaSource> source;  // null: text alone, or the prefix has been made of it
    const MediaPrefix* prefix = nullptr;  // of the media, for several questions
    std::string group;
    double seconds = 0;  // that it took to get there
  };
  Result<Subject> open_media(const Job& job);
  // Media that several questions ask about: from the store, or computed and kept there.
  Result<MediaPrefix> ingest(const Job& job, MediaSource& source);
  std::optional<MediaPrefix> resume(const Result<SequenceKey>& key,
                                    std::span<const VisualShape> shapes);
  Result<Answer> answer(const Question& question, const Subject& subject);
  Status ask(const Job& job, size_t index, const Subject& subject, AnswerListener& listener);
  AnswerRecord make_record(const Job& job, size_t index, const Answer& answer,
                           const CacheStats& last);

  Host host_;
  std::string model_path_;
  std::string media_settings_;
  Progress* progress_;
  const std::atomic<bool>* cancel_;
  CacheStats counted_;  // what the answers so far account for
};

}  // namespace vkv
