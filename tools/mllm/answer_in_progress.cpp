// answer_in_progress.cpp: which tokens come next, and what their logits say.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/answer_in_progress.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace vkv {

std::string_view name(FinishReason reason) {
  return reason == FinishReason::kEos ? "eos" : "length";
}

std::array<uint64_t, kRoleCount> count_roles(std::span<const Role> roles) {
  std::array<uint64_t, kRoleCount> counts{};
  for (const Role role : roles) ++counts[static_cast<size_t>(role)];
  return counts;
}

PromptInProgress::PromptInProgress(const ModelConfig* config, SequenceOwner sequence,
                                   SequencePlace place, PromptTokens prompt,
                                   std::span<const float> visual, int logit_count,
                                   int window_tokens_max)
    : config_(config),
      sequence_(std::move(sequence)),
      place_(place),
      prompt_(std::move(prompt)),
      visual_(visual),
      logit_count_(logit_count),
      window_tokens_max_(static_cast<size_t>(window_tokens_max)) {}

size_t PromptInProgress::window_tokens() const {
  return std::min(prompt_.tokens.size() - done_, window_tokens_max_);
}

int64_t PromptInProgress::visual_count() const {
  return std::ranges::count_if(std::span(prompt_.tokens).subspan(done_, window_tokens()),
                               [&](int32_t token) { return config_->is_visual(token); });
}

// Too few values are for the model to refuse.
std::span<const float> PromptInProgress::window_visual() const {
  const auto values = static_cast<size_t>(visual_count() * config_->text.hidden);
  return visual_.first(std::min(values, visual_.size()));
}

ForwardRequest PromptInProgress::next() const {
  const size_t count = window_tokens();
  const std::span<const RopePosition> rope = prompt_.rope;
  return {.sequence = sequence_.id(),
          .position = place_.position + static_cast<int64_t>(done_),
          .tokens = std::span(prompt_.tokens).subspan(done_, count),
          .roles = std::span(prompt_.roles).subspan(done_, count),
          .rope = rope.empty() ? rope : rope.subspan(done_, count),
          .rope_delta = place_.rope_delta,
          .visual = window_visual(),
          .logit_count = done_ + count == token_count() ? logit_count_ : 0,
          .ends_window = true};
}

void PromptInProgress::advance() {
  visual_ = visual_.subspan(window_visual().size());
  done_ += window_tokens();
}

AnswerInProgress::AnswerInProgress(const ModelConfig* config, const Tokenizer* tokenizer,
                                   PromptInProgress prompt, const Sampling& sampling)
    : config_(config),
      tokenizer_(tokenizer),
      prompt_(std::move(prompt)),
      sampler_(sampling),
      stream_(tokenizer),
      place_(prompt_.end()),
      // The last new token needs no position: it is never fed back.
      sampled_count_max_(std::min<int64_t>(sampling.max_new_tokens,
                                           config->text.positions_max - place_.rope() + 1)) {}

ForwardRequest AnswerInProgress::next() const {
  if (reads_prompt()) return prompt_.next();
  return {.sequence = sequence(),
          .position = place_.position,
          .tokens = {&token_, 1},
          .roles = {&role_, 1},
          .rope_delta = place_.rope_delta};
}

std::vector<float> AnswerInProgress::without_pictures(std::span<const float> logits) const {
  std::vector<float> allowed(logits.begin(), logits.end());
  for (const int32_t token : {config_->image_token, config_->video_token})
    if (token >= 0 && static_cast<size_t>(token) < allowed.size())
      allowed[static_cast<size_t>(token)] = -std::numeric_limits<float>::infinity();
  return allowed;
}

std::string AnswerInProgress::take(std::span<const float> logits) {
  if (reads_prompt()) {
    prompt_.advance();
    if (reads_prompt()) return {};
  } else {
    ++place_.position;
  }
  token_ = sampler_.next(without_pictures(logits));
  ++sampled_count_;
  const bool is_end = std::find(config_->eos_tokens.begin(), config_->eos_tokens.end(), token_) !=
                      config_->eos_tokens.end();
  std::string text;
  if (is_end) {
    reason_ = FinishReason::kEos;
  } else {
    tokens_.push_back(token_);
    role_ = tokenizer_->is_special(token_) ? Role::kControl : Role::kText;
    text = stream_.push(token_);
  }
  finished_ = is_end || sampled_count_ == sampled_count_max_;
  return finished_ ? text + stream_.finish() : text;
}

}  // namespace vkv
