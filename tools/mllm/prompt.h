// prompt.h: how a question and its media become tokens with roles.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/model_config.h"
#include "tools/mllm/prompt_style.h"
#include "tools/mllm/rope.h"
#include "tools/mllm/tokenizer.h"
#include "tools/mllm/visual_input.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

// "auto", "question", "llava-qwen", "chatml", "plain", "qwen-vl", "vicuna". Errors:
// kInvalidArgument, listing them.
Result<PromptStyle> prompt_style(std::string_view name);

struct PromptTokens {
  std::vector<int32_t> tokens;
  std::vector<Role> roles;  // image placeholders kVisual, special tokens kControl, the rest kText
  std::vector<RopePosition> rope;  // of media in a model with M-RoPE; else empty
  int64_t rope_delta = 0;          // of what follows; see ForwardRequest
};

// A question that came before, and what was answered.
struct Exchange {
  std::string_view question;
  std::string_view answer;
};

// The prompt of one checkpoint in two halves, which join without changing a token: an image token
// stands at the border, so no merge crosses it.
class Prompt {
 public:
  // The tokenizer outlives the prompt. system: a message that takes the place of the style's own;
  // empty: that. Errors: kInvalidArgument if the tokenizer lacks a special token of the style;
  // kUnsupported for a system message where the style has no place for one.
  static Result<Prompt> make(const Tokenizer* tokenizer, PromptStyle style,
                             const ModelConfig& config, std::string_view system = {});

  // Everything up to the last picture, frame or video; at least one, of a model with vision.
  Result<PromptTokens> media(std::span<const VisualShape> shapes) const;

  // What follows the media, or a whole prompt of text alone. Special tokens written in the
  // question are taken as plain characters, so a question cannot end the prompt or claim an image.
  // earlier: what was said since the media, the oldest first. Errors: kInvalidArgument for a
  // question that is blank or not UTF-8.
  Result<PromptTokens> question(std::string_view text, bool with_media,
                                std::span<const Exchange> earlier = {}) const;

 private:
  struct Part {
    bool special = false;  // one token; else text, in which {question} stands for the question
    std::string text;
    bool is_given = false;  // text of the caller's, in which nothing stands for anything
  };

  explicit Prompt(const ModelConfig& config) : config_(config) {}
  Status choose_parts(PromptStyle style, std::string_view system);
  // Adds the parts with the question in its place. Texts beside each other become one.
  static void fill(const std::vector<Part>& parts, std::string_view question,
                   std::vector<Part>& filled);
  // `place`: of all its texts.
  Status encode(const std::vector<Part>& filled, Tokenizer::TextPlace place,
                PromptTokens& target) const;

  const Tokenizer* tokenizer_ = nullptr;
  ModelConfig config_;
  std::vector<Part> start_;                       // before the media
  std::vector<Part> before_media_, after_media_;  // of each of them
  std::vector<Part> between_media_;               // of two of them
  std::vector<Part> question_with_media_;
  std::vector<Part> question_alone_;
  std::vector<Part> next_question_;  // behind an answer
  bool answers_begin_with_space_ = false;
};

}  // namespace vkv
