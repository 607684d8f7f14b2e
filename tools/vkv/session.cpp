// session.cpp: media, prompt and answers of a job.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/session.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "runtime/base/stopwatch.h"
#include "tools/mllm/media_ahead.h"
#include "tools/vkv/media_key.h"

namespace vkv {
namespace {

// Gives the media's sequence back, whatever happens to its questions.
class PrefixOwner {
 public:
  PrefixOwner(Generator* generator, const MediaPrefix& prefix)
      : generator_(generator), prefix_(prefix) {}
  ~PrefixOwner() { (void)generator_->release(prefix_); }  // fails only for an unknown sequence
  PrefixOwner(const PrefixOwner&) = delete;
  PrefixOwner& operator=(const PrefixOwner&) = delete;

  const MediaPrefix& prefix() const { return prefix_; }

 private:
  Generator* generator_;
  MediaPrefix prefix_;
};

TierBytes tier_bytes(const CacheStats& stats, Tier tier) {
  const TierStats& of = stats.tier[static_cast<size_t>(tier)];
  return {of.bytes_used, of.bytes_peak, of.original_bytes};
}

}  // namespace

Result<std::unique_ptr<Session>> Session::open(const SessionOptions& options, Progress* progress,
                                               const std::atomic<bool>* cancel) {
  progress->begin_phase("loading the model", "");
  VKV_TRY_ASSIGN(host, open_host(options));
  std::unique_ptr<Session> session(new Session(std::move(host), progress, cancel));
  session->model_path_ = options.model;
  session->media_settings_ = options.media_settings;
  progress->clear();
  return session;
}

// `per_unit`: how much of the work's own count makes one unit.
Watch Session::watch(std::string_view phase, std::string_view unit, uint64_t per_unit) {
  progress_->begin_phase(phase, unit);
  return {.progress = [this, per_unit](
                          uint64_t done,
                          uint64_t total) { progress_->update(done / per_unit, total / per_unit); },
          .cancel = cancel_};
}

Result<Session::Subject> Session::open_media(const Job& job) {
  if (job.images.empty() && job.video.empty())
    return Subject{.source = nullptr, .group = media_group(job, 0)};
  if (!host_.processor)
    return Status(Code::kInvalidArgument,
                  "the model reads text alone: ask it without pictures and videos");
  VKV_TRY_ASSIGN(media, open_job_media(job, *host_.processor, *host_.model,
                                       watch("decoding media", "pictures", 1)));
  Subject subject{.source = nullptr, .group = media_group(job, media->frame_count())};
  // Pictures are decoded by now. A video's frames are while the model computes.
  if (job.video.empty())
    subject.source = std::move(media);
  else
    subject.source = std::make_unique<MediaAhead>(std::move(media));
  return subject;
}

Result<MediaPrefix> Session::ingest(const Job& job, MediaSource& source) {
  const MediaFiles files = job_files(job);
  Result<SequenceKey> key = Status(Code::kNotFound, "nothing is kept");
  Result<std::string> stamps = key.status();
  if (host_.cache->options().keep_store) {
    stamps = media_stamps(files);
    key = media_key(model_path_, media_settings_, files, source.shapes());
  }
  if (const std::optional<MediaPrefix> kept = resume(key, source.shapes())) return *kept;

  const auto layers = static_cast<uint64_t>(host_.model->kv_shape().layers);
  const Watch ingesting = watch("prefill of media", "tokens", layers);
  VKV_TRY_ASSIGN(prefix, host_.generator->ingest(source, ingesting));
  if (!key.ok() || !stamps.ok()) return prefix;
  // Answers do not depend on it, so a full disk or a damaged store is no reason to fail.
  const Result<std::string> stamps_now = media_stamps(files);
  const bool unchanged = stamps_now.ok() && stamps_now.value() == stamps.value();
  const Status kept = unchanged ? host_.generator->keep(prefix, key.value())
                                : Status(Code::kIo, "their files changed while they were read");
  if (!kept.ok()) spdlog::warn("the KV of the media is not kept: {}", kept.message());
  return prefix;
}

std::optional<MediaPrefix> Session::resume(const Result<SequenceKey>& key,
                                           std::span<const VisualShape> shapes) {
  if (!key.ok()) return std::nullopt;
  const Result<MediaPrefix> kept = host_.generator->resume(shapes, key.value());
  if (kept.ok()) {
    spdlog::info("media: {} tokens from the store in {:.3f} s", kept.value().token_count,
                 kept.value().prefill_seconds);
    return kept.value();
  }
  if (kept.status().code() != Code::kNotFound)
    spdlog::warn("the KV of the media is computed anew: {}", kept.status().message());
  return std::nullopt;
}

Status Session::run(const Job& job, std::span<const size_t> questions, AnswerListener& listener) {
  const Stopwatch since_start;
  VKV_TRY_ASSIGN(subject, open_media(job));

  // Which way is taken depends on the job alone, never on how many answers are still missing, so
  // that a resumed batch gives the answers of an uninterrupted one.
  std::optional<PrefixOwner> owner;
  if (job.questions.size() > 1 && subject.source != nullptr) {
    VKV_TRY_ASSIGN(prefix, ingest(job, *subject.source));
    owner.emplace(host_.generator.get(), prefix);
    subject.prefix = &owner->prefix();
    subject.source.reset();
  }
  subject.seconds = since_start.seconds();
  for (const size_t index : questions) VKV_TRY(ask(job, index, subject, listener));
  progress_->clear();
  return {};
}

Result<Answer> Session::answer(const Question& question, const Subject& subject) {
  if (subject.prefix != nullptr) return host_.generator->answer(question, *subject.prefix);
  if (subject.source != nullptr) return host_.generator->answer(question, *subject.source);
  return host_.generator->answer(question, Media());
}

Status Session::ask(const Job& job, size_t index, const Subject& subject,
                    AnswerListener& listener) {
  VKV_TRY(check_cancel());
  listener.begin(job, index);
  CacheStats last = host_.cache->stats();  // while the sequence is still there
  uint64_t piece_count = 0;
  const auto layers = static_cast<uint64_t>(host_.model->kv_shape().layers);
  Watch prefill = watch("prefill", "tokens", layers);
  prefill.progress = [&, show = prefill.progress](uint64_t done, uint64_t total) {
    show(done, total);
    if (done == total) last = host_.cache->stats();
  };
  const Question question = {.text = job.questions[index].prompt,
                             .sampling = job.sampling,
                             .on_text =
                                 [&](std::string_view piece) {
                                   if (piece_count++ == 0)
                                     progress_->begin_phase("answering", "tokens");
                                   last = host_.cache->stats();
                                   progress_->update(piece_count, 0);
                                   listener.text(piece);
                                 },
                             .watch = prefill};
  Result<Answer> answer = this->answer(question, subject);
  progress_->clear();
  if (!answer.ok()) {
    if (answer.status().code() == Code::kCancelled) return answer.status();
    return listener.failed(job, index, answer.status());
  }
  AnswerRecord record = make_record(job, index, answer.value(), last);
  record.group = subject.group;
  record.media_seconds = subject.seconds + answer.value().media_seconds;
  return listener.answered(job, index, std::move(record));
}

AnswerRecord Session::make_record(const Job& job, size_t index, const Answer& answer,
                                  const CacheStats& last) {
  const JobQuestion& question = job.questions[index];
  const CacheStats after = host_.cache->stats();
  AnswerRecord record;
  record.id = job.id;
  record.question = static_cast<int64_t>(index);
  record.kind = question.kind;
  record.prompt = question.prompt;
  record.text = answer.text;
  record.expected = question.expected;
  record.correct = question.expected && is_expected(answer.text, *question.expected);
  record.finish = answer.finish;
  record.prompt_tokens = answer.prompt_tokens;
  record.answer_tokens = answer.tokens.size();
  record.ttft_seconds = answer.ttft_seconds;
  record.tpot_seconds = answer.tpot_seconds;
  record.kv = answer.stats.role;
  record.forms = answer.stats.forms;
  record.dram = tier_bytes(last, Tier::kDram);
  record.nvme = tier_bytes(last, Tier::kNvme);
  record.dram.peak = tier_bytes(after, Tier::kDram).peak;
  record.nvme.peak = tier_bytes(after, Tier::kNvme).peak;
  // The media's own share goes to the first answer after it.
  record.io = {after.nvme_read_count - counted_.nvme_read_count,
               after.nvme_read_bytes - counted_.nvme_read_bytes,
               after.nvme_written_bytes - counted_.nvme_written_bytes,
               after.prefetch_hit_count - counted_.prefetch_hit_count,
               after.prefetch_ready_count - counted_.prefetch_ready_count};
  counted_ = after;
  return record;
}

}  // namespace vkv
