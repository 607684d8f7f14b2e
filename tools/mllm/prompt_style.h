// prompt_style.h: how a question and its media are put into words.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace vkv {

// <image> stands for the tokens of a picture, frame or video.
enum class PromptStyle : uint8_t {
  kAuto,  // what the model's family has; if that is kAuto too: if the tokenizer has
          // <|im_start|> kLlavaQwen, if it is of SentencePiece's kind kVicuna, else kQuestion; for
          // a model of text alone kChatml, else kPlain
  kQuestion,   // TinyVLM: <s><image>..\nQuestion: {question} Answer:
  kLlavaQwen,  // llava-interleave-qwen, LLaVA-OneVision: <|im_start|>user
               // <image>..\n{question}<|im_end|>
               // <|im_start|>assistant\n
  kChatml,     // as kLlavaQwen, with line ends where ChatML has them, and before it, if the chat
               // template has one of its own: <|im_start|>system\n{message}<|im_end|>\n
  kPlain,      // <image>..{question}
  kVicuna,     // LLaVA-1.5: USER: <image>\n..{question} ASSISTANT:
  kQwenVl,     // kChatml with Qwen's system message, and <|vision_start|><image><|vision_end|>
               // before the question
};

}  // namespace vkv
