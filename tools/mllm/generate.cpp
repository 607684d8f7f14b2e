// generate.cpp: questions about pictures and video in, answers out.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/generate.h"

#include <fmt/format.h>

#include <utility>

namespace vkv {
Generator::Generator(Model* model, const Tokenizer* tokenizer, Cache* cache,
                     const GeneratorOptions& options, Prompt prompt)
    : model_(model),
      tokenizer_(tokenizer),
      cache_(cache),
      options_(options),
      prompt_(std::move(prompt)) {}

Result<Generator> Generator::make(Model* model, const Tokenizer* tokenizer, Cache* cache,
                                  const GeneratorOptions& options) {
  const ModelConfig& config = model->config();
  if (!(cache->options().shape == config.kv_shape()) ||
      cache->options().element != model->element())
    return Status(
        Code::kInvalidArgument,
        "the cache was opened for another model: its shape must be Model::kv_shape(), its "
        "element Model::element()");
  if (tokenizer->id_max() >= config.text.vocabulary)
    return Status(
        Code::kInvalidArgument,
        fmt::format("the tokenizer has token {}, the model's vocabulary only {}: they are "
                    "of different checkpoints",
                    tokenizer->id_max(), config.text.vocabulary));
  if (options.window_tokens_max < 1)
    return Status(Code::kInvalidArgument, "window_tokens_max is less than 1");
  VKV_TRY_ASSIGN(prompt, Prompt::make(tokenizer, options.style, config));
  return Generator(model, tokenizer, cache, options, std::move(prompt));
}

Result<Media> Generator::encode_media(std::span<const VisualInput> images, const Watch& watch) {
  const Stopwatch since_call;
  VKV_TRY_ASSIGN(embeddings, model_->encode_images(images, watch));
  std::vector<VisualShape> shapes;
  for (const VisualInput& image : images) shapes.push_back(image.shape);
  return Media{.shapes = std::move(shapes),
               .embeddings = std::move(embeddings),
               .encode_seconds = since_call.seconds()};
}

Status Generator::check_length(int64_t end, int64_t tokens) const {
  const ModelConfig& config = model_->config();
  const int positions_max = config.text.positions_max;
  if (end < positions_max) return {};
  if (!config.has_vision())
    return {Code::kInvalidArgument,
            fmt::format("the prompt has {} tokens, the model's positions are {}: shorten it",
                        tokens, positions_max)};
  const int each = config.packs_tiles() ? 0 : config.tokens_per_image();
  return {
      Code::kInvalidArgument,
      fmt::format("the prompt has {} tokens, the model's positions are {}: ask with fewer images "
                  "or frames{} or a shorter question",
                  tokens, positions_max, each > 0 ? fmt::format(" ({} tokens each)", each) : "")};
}

Result<PromptTokens> Generator::media_prompt(std::span<const VisualShape> shapes,
                                             std::string_view system) const {
  if (system.empty()) return prompt_.media(shapes);
  VKV_TRY_ASSIGN(prompt, Prompt::make(tokenizer_, options_.style, model_->config(), system));
  return prompt.media(shapes);
}

Result<PromptTokens> Generator::question_prompt(const Question& question, bool with_media) const {
  if (question.system.empty()) return prompt_.question(question.text, with_media, question.earlier);
  VKV_TRY_ASSIGN(prompt,
                 Prompt::make(tokenizer_, options_.style, model_->config(), question.system));
  return prompt.question(question.text, with_media, question.earlier);
}

Result<Generator::PromptSize> Generator::size(const Question& question,
                                              std::span<const VisualShape> shapes) const {
  VKV_TRY(validate(question.sampling));
  PromptSize size;
  int64_t rope_delta = 0;
  if (!shapes.empty()) {
    VKV_TRY_ASSIGN(head, media_prompt(shapes, question.system));
    size.media_tokens = head.tokens.size();
    size.visual_tokens = count_roles(head.roles)[static_cast<size_t>(Role::kVisual)];
    rope_delta = head.rope_delta;
  }
  VKV_TRY_ASSIGN(tail, question_prompt(question, !shapes.empty()));
  size.question_tokens = tail.tokens.size();
  const auto tokens = static_cast<int64_t>(size.media_tokens + size.question_tokens);
  VKV_TRY(check_length(tokens + rope_delta, tokens));
  return size;
}

PromptInProgress Generator::in_progress(SequenceId sequence, SequencePlace place,
                                        PromptTokens prompt, std::span<const float> visual,
                                        int logit_count) {
  return {&model_->config(), SequenceOwner(cache_, sequence), place, std::move(prompt), visual,
          logit_count,       options_.window_tokens_max};
}

Result<AnswerInProgress> Generator::begin(const Question& question, const Media& media) {
  return begin(question, media.shapes, media.embeddings);
}

Result<AnswerInProgress> Generator::begin(const Question& question,
                                          std::span<const VisualShape> shapes,
                                          std::span<const float> visual) {
  VKV_TRY(validate(question.sampling));
  const bool with_media = !shapes.empty();
  VKV_TRY_ASSIGN(tail, question_prompt(question, with_media));
  PromptTokens prompt;
  if (with_media) {
    VKV_TRY_ASSIGN(head, media_prompt(shapes, question.system));
    prompt = std::move(head);
  }
  prompt.tokens.insert(prompt.tokens.end(), tail.tokens.begin(), tail.tokens.end());
  prompt.roles.insert(prompt.roles.end(), tail.roles.begin(), tail.roles.end());
  const auto prompt_tokens = static_cast<int64_t>(prompt.tokens.size());
  if (!prompt.rope.empty())
    for (auto at = static_cast<int64_t>(prompt.rope.size()); at < prompt_tokens; ++at) {
      const auto position = static_cast<int32_t>(at + prompt.rope_delta);
      prompt.rope.push_back({position, position, position});
    }
  VKV_TRY(check_length(prompt_tokens + prompt.rope_delta, prompt_tokens));

  VKV_TRY_ASSIGN(sequence, cache_->create_sequence());
  const SequencePlace start = {.position = 0, .rope_delta = prompt.rope_delta};
  return AnswerInProgress(&model_->config(), tokenizer_,
                          in_progress(sequence, start, std::move(prompt), visual, 1),
                          question.sampling);
}

Result<AnswerInProgress> Generator::begin(const Question& question, const MediaPrefix& prefix) {
  VKV_TRY(validate(question.sampling));
  VKV_TRY_ASSIGN(prompt, question_prompt(question, true));
  const int64_t prompt_tokens = prefix.token_count + static_cast<int64_t>(prompt.tokens.size());
  VKV_TRY(check_length(prompt_tokens + prefix.rope_delta, prompt_tokens));

  VKV_TRY_ASSIGN(sequence, cache_->fork(prefix.sequence));
  const SequencePlace start = {.position = prefix.token_count, .rope_delta = prefix.rope_delta};
  return AnswerInProgress(&model_->config(), tokenizer_,
                          in_progress(sequence, start, std::move(prompt), {}, 1),
                          question.sampling);
}

Result<PromptInProgress> Generator::begin_ingest(const Media& media, std::string_view system) {
  return begin_ingest(media.shapes, media.embeddings, system);
}

Result<PromptInProgress> Generator::begin_ingest(std::span<const VisualShape> shapes,
                                                 std::span<const float> visual,
                                                 std::string_view system) {
  if (shapes.empty())
    return Status(Code::kInvalidArgument, "no images to ingest: several questions need media");
  VKV_TRY_ASSIGN(prompt, media_prompt(shapes, system));
  const auto prompt_tokens = static_cast<int64_t>(prompt.tokens.size());
  VKV_TRY(check_length(prompt_tokens + prompt.rope_delta, prompt_tokens));
  VKV_TRY_ASSIGN(sequence, cache_->create_sequence());
  const SequencePlace start = {.position = 0, .rope_delta = prompt.rope_delta};
  return in_progress(sequence, start, std::move(prompt), visual, 0);
}

MediaPrefix Generator::finish_ingest(PromptInProgress ingested) {
  return {.sequence = ingested.release_sequence(),
          .token_count = static_cast<int64_t>(ingested.token_count()),
          .rope_delta = ingested.end().rope_delta,
          .role_tokens = count_roles(ingested.roles())};
}

Result<std::vector<float>> Generator::forward(PromptInProgress& prompt, EncodedRows* rows,
                                              const Watch& watch) {
  // A visual row counts as much as its token does in as many layers as the tower has, which is
  // about what it costs; what is reported is scaled to tokens x layers.
  const ModelConfig& config = model_->config();
  const auto layers = static_cast<uint64_t>(config.text.layers);
  const auto row_work = static_cast<uint64_t>(config.vision.layers);
  const uint64_t total = prompt.token_count() * layers;
  const auto row_count = static_cast<uint64_t>(rows != nullptr ? rows->row_count() : 0);
  const auto reporting = [&](uint64_t rows_done, uint64_t tokens_in_layers) {
    const uint64_t done = prompt.tokens_done() * layers + tokens_in_layers + rows_done * row_work;
    watch.report(done * total / (total + row_count * row_work), total);
  };
  if (rows != nullptr) {
    const auto taken = static_cast<uint64_t>(rows->rows_taken());
    const auto count = static_cast<uint64_t>(prompt.visual_count());
    const Watch encoding = {
        .progress = [&](uint64_t done,
                        uint64_t of_call) { reporting(taken + count * done / of_call, 0); },
        .cancel = watch.cancel};
    VKV_TRY_ASSIGN(visual, rows->take(prompt.visual_count(), encoding));
    prompt.set_visual(visual);
  }
  const auto rows_done = static_cast<uint64_t>(rows != nullptr ? rows->rows_taken() : 0);
  const Watch window = {.progress = [&](uint64_t done, uint64_t) { reporting(rows_done, done); },
                        .cancel = watch.cancel};
  return model_->forward(*cache_, prompt.next(), window);
}

Result<MediaPrefix> Generator::ingest(const Media& media, const Watch& watch) {
  const Stopwatch since_call;
  VKV_TRY_ASSIGN(prompt, begin_ingest(media));
  return run(std::move(prompt), nullptr, watch, since_call);
}

Result<MediaPrefix> Generator::ingest(MediaSource& source, const Watch& watch) {
  const Stopwatch since_call;
  VKV_TRY_ASSIGN(prompt, begin_ingest(source.shapes(), {}, {}));
  EncodedRows rows(model_, &source);
  return run(std::move(prompt), &rows, watch, since_call);
}

Result<MediaPrefix> Generator::run(PromptInProgress prompt, EncodedRows* rows, const Watch& watch,
                                   const Stopwatch& since_call) {
  while (!prompt.finished()) {
    VKV_TRY(forward(prompt, rows, watch).status());
    prompt.advance();
  }
  MediaPrefix prefix = finish_ingest(std::move(prompt));
  prefix.prefill_seconds = since_call.seconds();
  return prefix;
}

Status Generator::keep(const MediaPrefix& prefix, const SequenceKey& key) {
  return cache_->save(prefix.sequence, key);
}

Result<MediaPrefix> Generator::resume(std::span<const VisualShape> shapes, const SequenceKey& key,
                                      std::string_view system) {
  const Stopwatch since_call;
  VKV_TRY_ASSIGN(prompt, media_prompt(shapes, system));
  VKV_TRY_ASSIGN(sequence, cache_->restore(key));
  SequenceOwner owner(cache_, sequence);
  VKV_TRY_ASSIGN(stats, cache_->sequence_stats(sequence));
  if (stats.token_count != prompt.tokens.size())
    return Status(Code::kDataLoss, fmt::format("the store has {} tokens of these media, not {}",
                                               stats.token_count, prompt.tokens.size()));
  return MediaPrefix{.sequence = owner.release(),
                     .token_count = static_cast<int64_t>(prompt.tokens.size()),
                     .rope_delta = prompt.rope_delta,
                     .role_tokens = count_roles(prompt.roles),
                     .prefill_seconds = since_call.seconds()};
}

Status Generator::release(const MediaPrefix& prefix) { return cache_->erase(prefix.sequence); }

Result<Answer> Generator::answer(const Question& question, const Media& media) {
  const Stopwatch since_call;
  VKV_TRY_ASSIGN(answer, begin(question, media));
  return run(std::move(answer), nullptr, question, since_call);
}

Result<Answer> Generator::answer(const Question& question, MediaSource& source) {
  const Stopwatch since_call;
  VKV_TRY_ASSIGN(answer, begin(question, source.shapes(), {}));
  EncodedRows rows(model_, &source);
  return run(std::move(answer), &rows, question, since_call);
}

Result<Answer> Generator::answer(const Question& question, const MediaPrefix& prefix) {
  const Stopwatch since_call;
  VKV_TRY_ASSIGN(in_progress, begin(question, prefix));
  VKV_TRY_ASSIGN(answer, run(std::move(in_progress), nullptr, question, since_call));
  for (size_t role = 0; role < kRoleCount; ++role)
    answer.prompt_tokens[role] += prefix.role_tokens[role];
  return std::move(answer);
}

Result<Answer> Generator::run(AnswerInProgress in_progress, EncodedRows* rows,
                              const Question& question, const Stopwatch& since_call) {
  Answer answer;
  double first_token_seconds = 0;
  while (!in_progress.finished()) {
    VKV_TRY(question.watch.check());
    VKV_TRY_ASSIGN(logits, in_progress.reads_prompt()
                               ? forward(in_progress.prompt(), rows, question.watch)
                               : model_->forward(*cache_, in_progress.next(),
                                                 {.cancel = question.watch.cancel}));
    const std::string piece = in_progress.take(logits);
    if (first_token_seconds == 0 && in_progress.sampled_count() > 0)
      first_token_seconds = since_call.seconds();
    answer.text += piece;
    if (question.on_text && !piece.empty()) question.on_text(piece);
  }
  if (rows != nullptr) answer.media_seconds = rows->seconds();
  answer.ttft_seconds = first_token_seconds - answer.media_seconds;
  answer.tokens = in_progress.tokens();
  answer.finish = in_progress.finish_reason();
  answer.prompt_tokens = count_roles(in_progress.prompt().roles());
  if (in_progress.sampled_count() > 1)
    answer.tpot_seconds = (since_call.seconds() - first_token_seconds) /
                          static_cast<double>(in_progress.sampled_count() - 1);
  VKV_TRY_ASSIGN(stats, cache_->sequence_stats(in_progress.sequence()));
  answer.stats = stats;
  return answer;
}

}  // namespace vkv
