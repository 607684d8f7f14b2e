// prompt.cpp: how a question and its media become tokens with roles.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/prompt.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "tools/mllm/visual_layout.h"

namespace vkv {
namespace {

constexpr std::string_view kQuestionMark = "{question}";
constexpr char kImStart[] = "<|im_start|>";
constexpr char kImEnd[] = "<|im_end|>";
constexpr std::string_view kSystemStart = "<|im_start|>system";
constexpr char kQwenSystem[] = "You are a helpful assistant.";  // of both Qwen-VL's templates

bool is_blank(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; });
}

// Jinja strings may spell a line end as two characters.
std::string with_line_ends(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size(); ++at) {
    const bool is_spelled = text.substr(at, 2) == "\\n";
    result.push_back(is_spelled ? '\n' : text[at]);
    at += is_spelled ? 1 : 0;
  }
  return result;
}

// The message that the chat template puts first when a conversation has no system message of its
// own: what it has in plain words between <|im_start|>system and <|im_end|>. Empty if there is
// none.
std::string default_system(std::string_view jinja) {
  const std::string chat_template = with_line_ends(jinja);
  for (size_t at = chat_template.find(kSystemStart); at != chat_template.npos;
       at = chat_template.find(kSystemStart, at + 1)) {
    const size_t begin = at + kSystemStart.size() + 1;
    const size_t end = chat_template.find(kImEnd, begin);
    if (end == chat_template.npos) break;
    const std::string message = chat_template.substr(begin, end - begin);
    // A quote ends the plain words: what follows is put together by the template.
    if (chat_template[begin - 1] == '\n' && message.find_first_of("'\"{}") == message.npos)
      return message;
  }
  return {};
}

}  // namespace

Result<PromptStyle> prompt_style(std::string_view name) {
  if (name == "auto") return PromptStyle::kAuto;
  if (name == "question") return PromptStyle::kQuestion;
  if (name == "llava-qwen") return PromptStyle::kLlavaQwen;
  if (name == "chatml") return PromptStyle::kChatml;
  if (name == "plain") return PromptStyle::kPlain;
  if (name == "qwen-vl") return PromptStyle::kQwenVl;
  if (name == "vicuna") return PromptStyle::kVicuna;
  return Status(Code::kInvalidArgument,
                fmt::format("prompt style \"{}\"; there are auto, question, llava-qwen, chatml, "
                            "plain, qwen-vl and vicuna",
                            name));
}

Status Prompt::choose_parts(PromptStyle style, std::string_view system) {
  const bool has_place = style == PromptStyle::kLlavaQwen || style == PromptStyle::kChatml ||
                         style == PromptStyle::kQwenVl || style == PromptStyle::kVicuna;
  if (!system.empty() && !has_place)
    return {Code::kUnsupported,
            "the model's prompt style has no place for a system message: leave it out"};
  const std::string given(system);
  switch (style) {
    case PromptStyle::kAuto:
    case PromptStyle::kQuestion:
      start_ = {{true, "<s>"}};
      question_with_media_ = {{false, "\nQuestion: {question} Answer:"}};
      question_alone_ = {{true, "<s>"}, {false, "Question: {question} Answer:"}};
      next_question_ = {{false, "\nQuestion: {question} Answer:"}};
      answers_begin_with_space_ = true;
      break;
    case PromptStyle::kLlavaQwen:
      start_ = {{true, kImStart}, {false, "user "}};
      question_with_media_ = {
          {false, "\n{question}"}, {true, kImEnd}, {true, kImStart}, {false, "assistant\n"}};
      question_alone_ = question_with_media_;
      question_alone_[0].text = "user \n{question}";
      question_alone_.insert(question_alone_.begin(), {true, kImStart});
      next_question_ = question_alone_;
      next_question_.insert(next_question_.begin(), {true, kImEnd});
      if (!given.empty())
        for (auto* parts : {&start_, &question_alone_})
          parts->insert(parts->begin(),
                        {{true, kImStart}, {false, "system \n" + given, true}, {true, kImEnd}});
      break;
    case PromptStyle::kChatml:
    case PromptStyle::kQwenVl: {
      const bool is_qwen = style == PromptStyle::kQwenVl;
      std::string message = is_qwen ? kQwenSystem : default_system(tokenizer_->chat_template());
      if (!given.empty()) message = given;
      if (!message.empty())
        start_ = {
            {true, kImStart}, {false, "system\n" + message, true}, {true, kImEnd}, {false, "\n"}};
      start_.insert(start_.end(), {{true, kImStart}, {false, "user\n"}});
      const std::vector<Part> rest = {
          {true, kImEnd}, {false, "\n"}, {true, kImStart}, {false, "assistant\n"}};
      question_alone_ = start_;
      question_alone_.back().text += "{question}";
      question_alone_.insert(question_alone_.end(), rest.begin(), rest.end());
      question_with_media_ = {{false, is_qwen ? "{question}" : "\n{question}"}};
      question_with_media_.insert(question_with_media_.end(), rest.begin(), rest.end());
      next_question_ = {
          {true, kImEnd}, {false, "\n"}, {true, kImStart}, {false, "user\n{question}"}};
      next_question_.insert(next_question_.end(), rest.begin(), rest.end());
      if (is_qwen) before_media_ = {{true, "<|vision_start|>"}};
      if (is_qwen) after_media_ = {{true, "<|vision_end|>"}};
      break;
    }
    case PromptStyle::kVicuna:
      start_ = {{false, "USER: "}};
      between_media_ = {{false, "\n"}};
      question_with_media_ = {{false, "\n{question} ASSISTANT:"}};
      question_alone_ = {{false, "USER: {question} ASSISTANT:"}};
      next_question_ = {{false, " USER: {question} ASSISTANT:"}};
      answers_begin_with_space_ = true;
      if (!given.empty()) {
        start_[0] = {false, given + " USER: ", true};
        question_alone_[0].text = given + " USER: {question} ASSISTANT:";
      }
      break;
    case PromptStyle::kPlain:
      question_with_media_ = {{false, "{question}"}};
      question_alone_ = question_with_media_;
      next_question_ = {{false, "\n{question}"}};
      break;
  }
  return {};
}

Result<Prompt> Prompt::make(const Tokenizer* tokenizer, PromptStyle style,
                            const ModelConfig& config, std::string_view system) {
  if (style == PromptStyle::kAuto) style = config.prompt_style;
  if (style == PromptStyle::kAuto) {
    const bool is_chat = tokenizer->find(kImStart).has_value();
    if (config.has_vision())
      style = is_chat                        ? PromptStyle::kLlavaQwen
              : tokenizer->has_space_marks() ? PromptStyle::kVicuna
                                             : PromptStyle::kQuestion;
    else
      style = is_chat ? PromptStyle::kChatml : PromptStyle::kPlain;
  }
  Prompt prompt(config);
  prompt.tokenizer_ = tokenizer;
  VKV_TRY(prompt.choose_parts(style, system));
  if (style != PromptStyle::kQuestion)  // has its own
    for (auto* parts : {&prompt.start_, &prompt.question_alone_})
      for (size_t i = 0; i < tokenizer->begin_tokens().size(); ++i)
        parts->insert(parts->begin() + static_cast<ptrdiff_t>(i),
                      {true, tokenizer->begin_tokens()[i]});
  for (const auto* parts : {&prompt.start_, &prompt.before_media_, &prompt.after_media_,
                            &prompt.question_with_media_, &prompt.question_alone_})
    for (const Part& part : *parts)
      if (part.special && !tokenizer->find(part.text))
        return Status(Code::kInvalidArgument,
                      fmt::format("the tokenizer has no {}, which the prompt style needs; choose "
                                  "another style",
                                  part.text));
  return prompt;
}

void Prompt::fill(const std::vector<Part>& parts, std::string_view question,
                  std::vector<Part>& filled) {
  for (const Part& part : parts) {
    std::string text = part.text;
    const size_t at = part.special || part.is_given ? text.npos : text.rfind(kQuestionMark);
    if (at != text.npos) text.replace(at, kQuestionMark.size(), question);
    // Tokens may reach over a border of two texts.
    if (!part.special && !filled.empty() && !filled.back().special)
      filled.back().text += text;
    else
      filled.push_back({part.special, std::move(text), true});
  }
}

Status Prompt::encode(const std::vector<Part>& filled, Tokenizer::TextPlace place,
                      PromptTokens& target) const {
  for (const Part& part : filled) {
    if (part.special) {
      target.tokens.push_back(*tokenizer_->find(part.text));
      target.roles.push_back(Role::kControl);
      continue;
    }
    VKV_TRY_ASSIGN(tokens, tokenizer_->encode(part.text, Tokenizer::AddedTokens::kPlain, place));
    target.tokens.insert(target.tokens.end(), tokens.begin(), tokens.end());
    target.roles.resize(target.tokens.size(), Role::kText);
  }
  return {};
}

Result<PromptTokens> Prompt::media(std::span<const VisualShape> shapes) const {
  constexpr auto kBehind = Tokenizer::TextPlace::kBehind;
  PromptTokens prompt;
  VKV_TRY(encode(start_, Tokenizer::TextPlace::kFirst, prompt));
  for (const VisualShape& shape : shapes) {
    if (&shape != &shapes.front()) VKV_TRY(encode(between_media_, kBehind, prompt));
    VKV_TRY(encode(before_media_, kBehind, prompt));
    const auto count = static_cast<size_t>(visual_token_count(config_, shape));
    const bool has_own = shape.is_video && config_.video_token >= 0;
    prompt.tokens.resize(prompt.tokens.size() + count,
                         has_own ? config_.video_token : config_.image_token);
    prompt.roles.resize(prompt.tokens.size(), Role::kVisual);
    VKV_TRY(encode(after_media_, kBehind, prompt));
  }
  if (!config_.text.has_rope_axes()) return prompt;
  VKV_TRY_ASSIGN(rope, prompt_positions(config_, prompt.tokens, shapes));
  prompt.rope_delta = rope_end(rope) - static_cast<int64_t>(rope.size());
  prompt.rope = std::move(rope);
  return prompt;
}

Result<PromptTokens> Prompt::question(std::string_view text, bool with_media,
                                      std::span<const Exchange> earlier) const {
  if (is_blank(text))
    return Status(Code::kInvalidArgument, "the question is empty: give it some words");
  std::vector<Part> filled;
  const std::vector<Part>* parts = with_media ? &question_with_media_ : &question_alone_;
  for (const Exchange& exchange : earlier) {
    fill(*parts, exchange.question, filled);
    // Where answers begin with a space, clients may have taken it off.
    std::string answer(exchange.answer);
    if (answers_begin_with_space_ && !answer.starts_with(' ')) answer.insert(answer.begin(), ' ');
    fill({{false, std::move(answer), true}}, {}, filled);
    parts = &next_question_;
  }
  fill(*parts, text, filled);
  PromptTokens prompt;
  // The text before which no other text or medium stands is the input's first.
  VKV_TRY(encode(filled, with_media ? Tokenizer::TextPlace::kBehind : Tokenizer::TextPlace::kFirst,
                 prompt));
  return prompt;
}

}  // namespace vkv
