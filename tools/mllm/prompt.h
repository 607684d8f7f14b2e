// prompt.h: how a question and its media become tokens with roles.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/tokenizer.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

// <image> stands once a picture or frame and becomes tokens_per_image tokens.
enum class PromptStyle : uint8_t {
  kAuto,       // if the tokenizer has <|im_start|> kLlavaQwen, else kQuestion; for a model of text
               // alone kChatml, else kPlain
  kQuestion,   // TinyVLM: <s><image>..\nQuestion: {question} Answer:
  kLlavaQwen,  // llava-interleave-qwen: <|im_start|>user <image>..\n{question}<|im_end|>
               // <|im_start|>assistant\n
  kChatml,     // as kLlavaQwen, with line ends where ChatML has them, and before it, if the chat
               // template has one of its own: <|im_start|>system\n{message}<|im_end|>\n
  kPlain,      // <image>..{question}
};

// "auto", "question", "llava-qwen", "chatml", "plain". Errors: kInvalidArgument, listing them.
Result<PromptStyle> prompt_style(std::string_view name);

struct PromptTokens {
  std::vector<int32_t> tokens;
  std::vector<Role> roles;  // image placeholders kVisual, special tokens kControl, the rest kText
};

// The prompt of one checkpoint in two halves, which join without changing a token: an image token
// stands at the border, so no merge crosses it.
class Prompt {
 public:
  // The tokenizer outlives the prompt. Without vision tokens_per_image is 0. Errors:
  // kInvalidArgument if the tokenizer lacks a special token of the style.
  static Result<Prompt> make(const Tokenizer* tokenizer, PromptStyle style, int32_t image_token,
                             int tokens_per_image);

  // Everything up to the last image; image_count >= 1, of a model with vision.
  Result<PromptTokens> media(int image_count) const;

  // What follows the media, or a whole prompt of text alone. Special tokens written in the
  // question are taken as plain characters, so a question cannot end the prompt or claim an image.
  // Errors: kInvalidArgument for a question that is blank or not UTF-8.
  Result<PromptTokens> question(std::string_view text, bool with_media) const;

 private:
  struct Part {
    bool special = false;  // one token; else text, in which {question} stands for the question
    std::string text;
  };

  Prompt() = default;
  Status append(const std::vector<Part>& parts, std::string_view question,
                PromptTokens& target) const;

  const Tokenizer* tokenizer_ = nullptr;
  std::vector<Part> start_;  // before the media
  std::vector<Part> question_with_media_;
  std::vector<Part> question_alone_;
  int32_t image_token_ = 0;
  int tokens_per_image_ = 0;
};

}  // namespace vkv
