// answer_in_progress.h: prompts and answers in steps, which the caller runs alone or in a batch.
// SPDX-License-Identifier: Apache-2.0
//
//   while (!answer.finished()) {
//     logits = model.forward(cache, answer.next(), watch)    // or of many answers in one batch
//     text += answer.take(logits)
//   }
//
// They compute nothing. Whatever happens, the sequence goes with its owner.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/forward_request.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/prompt.h"
#include "tools/mllm/sampler.h"
#include "tools/mllm/sequence_owner.h"
#include "tools/mllm/tokenizer.h"
#include "vkv/stats.h"

namespace vkv {

enum class FinishReason : uint8_t { kEos, kLength };
std::string_view name(FinishReason reason);  // "eos", "length"

std::array<uint64_t, kRoleCount> count_roles(std::span<const Role> roles);

// What stands behind a number of tokens; rope_delta as in ForwardRequest.
struct SequencePlace {
  int64_t position = 0;
  int64_t rope_delta = 0;

  int64_t rope() const { return position + rope_delta; }
};

// A prompt on its way into a sequence, window by window.
class PromptInProgress {
 public:
  // place: where it begins. visual: [image tokens, hidden], outlives it, as `config` does; or
  // empty, and set_visual() comes before each window that needs some. The prompt has tokens;
  // logit_count: 1 or 0, of its last token. window_tokens_max: 1 or more.
  PromptInProgress(const ModelConfig* config, SequenceOwner sequence, SequencePlace place,
                   PromptTokens prompt, std::span<const float> visual, int logit_count,
                   int window_tokens_max);

  bool finished() const { return done_ == prompt_.tokens.size(); }
  // Visual rows of the next window, and the rows: at least as many, which live until advance().
  int64_t visual_count() const;
  void set_visual(std::span<const float> visual) { visual_ = visual; }
  // The next window, which goes through the model alone. Valid until advance(), and while this
  // stays where it is.
  ForwardRequest next() const;
  void advance();  // it went through

  uint64_t token_count() const { return prompt_.tokens.size(); }
  uint64_t tokens_done() const { return done_; }
  const std::vector<Role>& roles() const { return prompt_.roles; }
  SequencePlace end() const {
    return {place_.position + static_cast<int64_t>(token_count()), place_.rope_delta};
  }
  SequenceId sequence() const { return sequence_.id(); }
  SequenceId release_sequence() { return sequence_.release(); }

 private:
  size_t window_tokens() const;
  std::span<const float> window_visual() const;

  const ModelConfig* config_;
  SequenceOwner sequence_;
  SequencePlace place_;
  PromptTokens prompt_;
  std::span<const float> visual_;  // what is left of it
  int logit_count_;
  size_t window_tokens_max_;
  size_t done_ = 0;  // tokens
};

// Prefill, then one token a step.
class AnswerInProgress {
 public:
  // prompt: with a logit, nothing of it done yet. The sampling is valid. config and tokenizer
  // outlive it.
  AnswerInProgress(const ModelConfig* config, const Tokenizer* tokenizer, PromptInProgress prompt,
                   const Sampling& sampling);

  bool finished() const { return finished_; }
  // Whether next() is a window of the prompt, which goes alone; else it may go with others.
  bool reads_prompt() const { return !prompt_.finished(); }
  // Valid until take(), and while this stays where it is.
  ForwardRequest next() const;
  // logits: [logit_count of next(), vocabulary]. Returns the text that they add: whole UTF-8
  // characters, often none.
  std::string take(std::span<const float> logits);

  PromptInProgress& prompt() { return prompt_; }
  const PromptInProgress& prompt() const { return prompt_; }
  SequenceId sequence() const { return prompt_.sequence(); }
  const std::vector<int32_t>& tokens() const { return tokens_; }  // so far, without the end token
  int64_t sampled_count() const { return sampled_count_; }        // with it
  int64_t sampled_count_max() const { return sampled_count_max_; }
  FinishReason finish_reason() const { return reason_; }  // once it has finished

 private:
  // A model may want to write the token that stands for a picture. It would have no values.
  std::vector<float> without_pictures(std::span<const float> logits) const;

  const ModelConfig* config_;
  const Tokenizer* tokenizer_;
  PromptInProgress prompt_;
  Sampler sampler_;
  TextStream stream_;
  SequencePlace place_;  // of the newest token
  int32_t token_ = 0;    // the newest, not yet in the sequence
  Role role_ = Role::kText;
  std::vector<int32_t> tokens_;
  int64_t sampled_count_ = 0;
  int64_t sampled_count_max_;
  bool finished_ = false;
  FinishReason reason_ = FinishReason::kLength;
};

}  // namespace vkv
