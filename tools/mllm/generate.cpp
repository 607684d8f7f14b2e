// generate.cpp: questions about pictures and video in, answers out.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/generate.h"

#include <fmt/format.h>

#include <algorithm>

namespace vkv {
namespace {

// A sequence that is erased when it goes out of scope, unless it was kept.
class SequenceOwner {
 public:
  SequenceOwner(Cache* cache, SequenceId sequence) : cache_(cache), sequence_(sequence) {}
  SequenceOwner(const SequenceOwner&) = delete;
  SequenceOwner& operator=(const SequenceOwner&) = delete;
  // The answer's own error is the one to report, so that of erase is passed over.
  ~SequenceOwner() {
    if (cache_ != nullptr) (void)cache_->erase(sequence_);
  }

  SequenceId id() const { return sequence_; }
  SequenceId keep() {
    cache_ = nullptr;
    return sequence_;
  }
  Status erase() { return std::exchange(cache_, nullptr)->erase(sequence_); }

 private:
  Cache* cache_;
  SequenceId sequence_;
};

std::array<uint64_t, kRoleCount> count_roles(std::span<const Role> roles) {
  std::array<uint64_t, kRoleCount> counts{};
  for (const Role role : roles) ++counts[static_cast<size_t>(role)];
  return counts;
}

}  // namespace

std::string_view name(FinishReason reason) {
  return reason == FinishReason::kEos ? "eos" : "length";
}

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
  const int each = config.tokens_per_image();
  return {
      Code::kInvalidArgument,
      fmt::format("the prompt has {} tokens, the model's positions are {}: ask with fewer images "
                  "or frames{} or a shorter question",
                  tokens, positions_max, each > 0 ? fmt::format(" ({} tokens each)", each) : "")};
}

Result<std::vector<float>> Generator::prefill(const Place& place, const PromptTokens& prompt,
                                              std::span<const float> visual, const Watch& watch) {
  const auto token_count = prompt.tokens.size();
  const auto layers = static_cast<uint64_t>(model_->config().text.layers);
  const auto hidden = static_cast<size_t>(model_->config().text.hidden);
  const std::span<const int32_t> tokens = prompt.tokens;
  const std::span<const Role> roles = prompt.roles;
  const std::span<const RopePosition> rope = prompt.rope;
  std::vector<float> logits;
  for (size_t first = 0; first < token_count;) {
    const size_t count =
        std::min(token_count - first, static_cast<size_t>(options_.window_tokens_max));
    const auto visual_count = static_cast<size_t>(
        std::count_if(tokens.begin() + static_cast<int64_t>(first),
                      tokens.begin() + static_cast<int64_t>(first + count),
                      [&](int32_t token) { return model_->config().is_visual(token); }));
    const Watch window_watch = {
        .progress = [&](uint64_t done,
                        uint64_t) { watch.report(first * layers + done, token_count * layers); },
        .cancel = watch.cancel};
    VKV_TRY_ASSIGN(result,
                   model_->forward(*cache_,
                                   {.sequence = place.sequence,
                                    .position = place.position + static_cast<int64_t>(first),
                                    .tokens = tokens.subspan(first, count),
                                    .roles = roles.subspan(first, count),
                                    .rope = rope.empty() ? rope : rope.subspan(first, count),
                                    .rope_delta = place.rope_delta,
                                    .visual = visual.first(visual_count * hidden),
                                    .logit_count = first + count == token_count ? 1 : 0,
                                    .ends_window = true},
                                   window_watch));
    visual = visual.subspan(visual_count * hidden);
    first += count;
    logits = std::move(result);
  }
  return logits;
}

Result<Answer> Generator::answer(const Question& question, const Media& media) {
  const Stopwatch since_call;
  VKV_TRY(validate(question.sampling));
  const bool with_media = !media.shapes.empty();
  VKV_TRY_ASSIGN(tail, prompt_.question(question.text, with_media));
  PromptTokens prompt;
  if (with_media) {
    VKV_TRY_ASSIGN(head, prompt_.media(media.shapes));
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
  SequenceOwner owner(cache_, sequence);
  VKV_TRY_ASSIGN(logits, prefill({.sequence = sequence}, prompt, media.embeddings, question.watch));
  const Place end = {sequence, prompt_tokens, prompt.rope_delta};
  VKV_TRY_ASSIGN(answer, decode(end, std::move(logits), question, since_call));
  answer.prompt_tokens = count_roles(prompt.roles);
  VKV_TRY(owner.erase());
  return std::move(answer);
}

Result<MediaPrefix> Generator::ingest(const Media& media, const Watch& watch) {
  const Stopwatch since_call;
  if (media.shapes.empty())
    return Status(Code::kInvalidArgument, "no images to ingest: several questions need media");
  VKV_TRY_ASSIGN(prompt, prompt_.media(media.shapes));
  const auto prompt_tokens = static_cast<int64_t>(prompt.tokens.size());
  VKV_TRY(check_length(prompt_tokens + prompt.rope_delta, prompt_tokens));
  VKV_TRY_ASSIGN(sequence, cache_->create_sequence());
  SequenceOwner owner(cache_, sequence);
  VKV_TRY(prefill({.sequence = sequence}, prompt, media.embeddings, watch).status());
  return MediaPrefix{.sequence = owner.keep(),
                     .token_count = prompt_tokens,
                     .rope_delta = prompt.rope_delta,
                     .role_tokens = count_roles(prompt.roles),
                     .prefill_seconds = since_call.seconds()};
}

Status Generator::keep(const MediaPrefix& prefix, const SequenceKey& key) {
  return cache_->save(prefix.sequence, key);
}

Result<MediaPrefix> Generator::resume(std::span<const VisualShape> shapes, const SequenceKey& key) {
  const Stopwatch since_call;
  VKV_TRY_ASSIGN(prompt, prompt_.media(shapes));
  VKV_TRY_ASSIGN(sequence, cache_->restore(key));
  SequenceOwner owner(cache_, sequence);
  VKV_TRY_ASSIGN(stats, cache_->sequence_stats(sequence));
  if (stats.token_count != prompt.tokens.size())
    return Status(Code::kDataLoss, fmt::format("the store has {} tokens of these media, not {}",
                                               stats.token_count, prompt.tokens.size()));
  return MediaPrefix{.sequence = owner.keep(),
                     .token_count = static_cast<int64_t>(prompt.tokens.size()),
                     .rope_delta = prompt.rope_delta,
                     .role_tokens = count_roles(prompt.roles),
                     .prefill_seconds = since_call.seconds()};
}

Result<Answer> Generator::answer(const Question& question, const MediaPrefix& prefix) {
  const Stopwatch since_call;
  VKV_TRY(validate(question.sampling));
  VKV_TRY_ASSIGN(prompt, prompt_.question(question.text, true));
  const int64_t prompt_tokens = prefix.token_count + static_cast<int64_t>(prompt.tokens.size());
  VKV_TRY(check_length(prompt_tokens + prefix.rope_delta, prompt_tokens));

  VKV_TRY_ASSIGN(sequence, cache_->fork(prefix.sequence));
  SequenceOwner owner(cache_, sequence);
  Place place = {sequence, prefix.token_count, prefix.rope_delta};
  VKV_TRY_ASSIGN(logits, prefill(place, prompt, {}, question.watch));
  place.position = prompt_tokens;
  VKV_TRY_ASSIGN(answer, decode(place, std::move(logits), question, since_call));
  answer.prompt_tokens = count_roles(prompt.roles);
  for (size_t role = 0; role < kRoleCount; ++role)
    answer.prompt_tokens[role] += prefix.role_tokens[role];
  VKV_TRY(owner.erase());
  return std::move(answer);
}

Status Generator::release(const MediaPrefix& prefix) { return cache_->erase(prefix.sequence); }

Result<Answer> Generator::decode(Place place, std::vector<float> logits, const Question& question,
                                 const Stopwatch& since_call) {
  const ModelConfig& config = model_->config();
  // The last new token needs no position: it is never fed back.
  const int64_t new_tokens_max = std::min<int64_t>(question.sampling.max_new_tokens,
                                                   config.text.positions_max - place.rope() + 1);
  Answer answer{.finish = FinishReason::kLength};
  Sampler sampler(question.sampling);
  TextStream stream(tokenizer_);
  const auto emit = [&](const std::string& piece) {
    answer.text += piece;
    if (question.on_text && !piece.empty()) question.on_text(piece);
  };
  int64_t sampled = 0;  // with an end token
  while (true) {
    const int32_t token = sampler.next(logits);
    if (sampled++ == 0) answer.ttft_seconds = since_call.seconds();
    if (std::find(config.eos_tokens.begin(), config.eos_tokens.end(), token) !=
        config.eos_tokens.end()) {
      answer.finish = FinishReason::kEos;
      break;
    }
    answer.tokens.push_back(token);
    emit(stream.push(token));
    if (sampled == new_tokens_max) break;

    VKV_TRY(question.watch.check());
    const Role role = tokenizer_->is_special(token) ? Role::kControl : Role::kText;
    VKV_TRY_ASSIGN(next, model_->forward(*cache_,
                                         {.sequence = place.sequence,
                                          .position = place.position++,
                                          .tokens = {&token, 1},
                                          .roles = {&role, 1},
                                          .rope_delta = place.rope_delta},
                                         {.cancel = question.watch.cancel}));
    logits = std::move(next);
  }
  emit(stream.finish());
  if (sampled > 1)
    answer.tpot_seconds =
        (since_call.seconds() - answer.ttft_seconds) / static_cast<double>(sampled - 1);
  VKV_TRY_ASSIGN(stats, cache_->sequence_stats(place.sequence));
  answer.stats = stats;
  return answer;
}

}  // namespace vkv
