// generate.h: questions about pictures and video in, answers out: start here.
// SPDX-License-Identifier: Apache-2.0
//
//   generator.answer(question, source)                  one question: media and question are one
//                                                       prefill window, so the cache keeps best
//                                                       what the question looks at
//   MediaPrefix prefix = generator.ingest(source)       several questions: KV of the media once,
//   generator.answer(question, prefix), ...             and a fork of it for each question
//
// A source gives its media piece by piece. What is more than a window is decoded, encoded and
// prefilled window by window, so that only KV grows with the length of a video. Media that
// encode_media() made at once may stand for a source, in several calls.
//
// begin() and begin_ingest() give the same in steps, for who runs many at once.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/stopwatch.h"
#include "tools/mllm/answer_in_progress.h"
#include "tools/mllm/encoded_rows.h"
#include "tools/mllm/media_source.h"
#include "tools/mllm/model.h"
#include "tools/mllm/prompt.h"
#include "tools/mllm/sampler.h"
#include "tools/mllm/tokenizer.h"

namespace vkv {

// Pictures and videos after the vision tower.
struct Media {
  std::vector<VisualShape> shapes;  // one a picture, frame or video
  std::vector<float> embeddings;    // [tokens of all of them, text.hidden]
  double encode_seconds = 0;
};

// A sequence of the cache that holds the prompt up to and with the media.
struct MediaPrefix {
  SequenceId sequence{};
  int64_t token_count = 0;
  int64_t rope_delta = 0;  // of what follows; see ForwardRequest
  std::array<uint64_t, kRoleCount> role_tokens{};
  double prefill_seconds = 0;  // with decoding and encoding what a source gave
};

struct Question {
  std::string_view text;
  // What was said before, the oldest first, and a message that takes the place of the prompt
  // style's own (of a prefix: the one that it was ingested with).
  std::span<const Exchange> earlier = {};
  std::string_view system = {};
  Sampling sampling;
  // Gets the answer as it grows: whole UTF-8 characters, in order. May be empty.
  std::function<void(std::string_view piece)> on_text;
  // Progress counts prompt tokens x layers, so it is full when the first token comes; encoding a
  // source's pieces has a share of it.
  Watch watch;
};

struct Answer {
  std::string text;
  std::vector<int32_t> tokens;                       // without the end token
  std::array<uint64_t, kRoleCount> prompt_tokens{};  // by role, with those of a prefix
  FinishReason finish = FinishReason::kEos;
  double media_seconds = 0;  // waiting for a source's pieces and encoding them
  // From the call to the first token, less media_seconds: prefill of all but a prefix.
  double ttft_seconds = 0;
  double tpot_seconds = 0;  // mean of the tokens after the first; 0 if there are none
  SequenceStats stats;      // of the sequence when the answer was complete
};

struct GeneratorOptions {
  PromptStyle style = PromptStyle::kAuto;
  // A prompt longer than this is prefilled and sealed in several windows (DESIGN: "window").
  int window_tokens_max = 32768;
};

// One call at a time.
class Generator {
 public:
  // All three outlive the generator. Errors: kInvalidArgument if the cache's shape or element is
  // not the model's, or if the tokenizer has ids or image tokens that the model lacks.
  static Result<Generator> make(Model* model, const Tokenizer* tokenizer, Cache* cache,
                                const GeneratorOptions& options);

  // `images` as in Model::encode_images; none gives empty media (a prompt of text alone).
  Result<Media> encode_media(std::span<const VisualInput> images, const Watch& watch);

  // One question over the media. Errors: kInvalidArgument for an empty question, sampling out of
  // range or a prompt longer than the model's positions; kCancelled; those of the cache. Whatever
  // happens, no sequence is left behind.
  Result<Answer> answer(const Question& question, const Media& media);
  // Reads the source from beginning to end. Errors: also those of EncodedRows.
  Result<Answer> answer(const Question& question, MediaSource& source);

  // Several questions over the same media (at least one image). The prefix stays in the cache
  // until release().
  Result<MediaPrefix> ingest(const Media& media, const Watch& watch);
  Result<MediaPrefix> ingest(MediaSource& source, const Watch& watch);
  // What ingest() would give, as an earlier process has kept it in the cache's store. The key must
  // name model and media. Errors: those of Cache::save and Cache::restore.
  Status keep(const MediaPrefix& prefix, const SequenceKey& key);
  Result<MediaPrefix> resume(std::span<const VisualShape> shapes, const SequenceKey& key,
                             std::string_view system = {});
  Result<Answer> answer(const Question& question, const MediaPrefix& prefix);
  Status release(const MediaPrefix& prefix);

  // The same in steps of the caller's: next() of what they return goes through the model, in the
  // generator's cache. Media outlive it; the question's on_text and watch are not used. Errors: as
  // above, before anything is computed.
  Result<AnswerInProgress> begin(const Question& question, const Media& media);
  Result<AnswerInProgress> begin(const Question& question, const MediaPrefix& prefix);
  Result<PromptInProgress> begin_ingest(const Media& media, std::string_view system = {});
  static MediaPrefix finish_ingest(PromptInProgress ingested);  // which has finished

  // Tokens of the prompt up to and with the media, and behind them. Any thread may call. Errors:
  // those of begin().
  struct PromptSize {
    uint64_t media_tokens = 0;
    uint64_t visual_tokens = 0;  // of them
    uint64_t question_tokens = 0;
  };
  Result<PromptSize> size(const Question& question, std::span<const VisualShape> shapes) const;

 private:
  Generator(Model* model, const Tokenizer* tokenizer, Cache* cache, const GeneratorOptions& options,
            Prompt prompt);

  // `end`: one more than the greatest position of the prompt; `tokens`: how many it has.
  Status check_length(int64_t end, int64_t tokens) const;
  Result<PromptTokens> media_prompt(std::span<const VisualShape> shapes,
                                    std::string_view system) const;
  Result<PromptTokens> question_prompt(const Question& question, bool with_media) const;
  PromptInProgress in_progress(SequenceId sequence, SequencePlace place, PromptTokens prompt,
                               std::span<const float> visual, int logit_count);
  // `visual`: empty if the rows come later.
  Result<AnswerInProgress> begin(const Question& question, std::span<const VisualShape> shapes,
                                 std::span<const float> visual);
  Result<PromptInProgress> begin_ingest(std::span<const VisualShape> shapes,
                                        std::span<const float> visual, std::string_view system);
  // Runs a window; `rows`: where its visual rows come from, null if the prompt has them. Progress
  // as in Question.
  Result<std::vector<float>> forward(PromptInProgress& prompt, EncodedRows* rows,
                                     const Watch& watch);
  Result<MediaPrefix> run(PromptInProgress prompt, EncodedRows* rows, const Watch& watch,
                          const Stopwatch& since_call);
  Result<Answer> run(AnswerInProgress answer, EncodedRows* rows, const Question& question,
                     const Stopwatch& since_call);

  Model* model_;
  const Tokenizer* tokenizer_;
  Cache* cache_;
  GeneratorOptions options_;
  Prompt prompt_;
};

}  // namespace vkv
