// tokenizer_file.h: the parts of a tokenizer's file, checked.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tools/mllm/text_splitter.h"
#include "tools/mllm/utf8.h"
#include "vkv/status.h"

namespace vkv {

// GPT-2's way to cut text, which many tokenizers took over.
inline constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;     // left out of decoded text
  bool normalised = false;  // looked for after normalisation, not before
};

// One pre-tokenizer, applied to every piece of the one before it.
struct SplitStep {
  std::optional<TextSplitter> splitter;
  bool add_prefix_space = false;
};

// What stands for a space in tokens of SentencePiece's kind, U+2581.
inline constexpr char kSpaceMark[] = "\xe2\x96\x81";

// SentencePiece's kind of BPE, as Llama has it (byte_fallback).
struct SpaceMarks {
  // Where a mark is put before text: nowhere, before text that begins the input, or also before
  // what stands behind an added token.
  enum class Before : uint8_t { kNothing, kInput, kEachText };
  Before before = Before::kNothing;
  bool even_behind_space = false;  // also before text that begins with a space
  bool split = false;              // a piece begins at each mark
  bool strip_first = false;        // decoded text loses one space at its begin
};

struct TokenizerFile {
  std::vector<AddedToken> added;
  NormalForm normal_form = NormalForm::kNone;
  std::vector<SplitStep> split_steps;
  std::unordered_map<std::string, int32_t> vocabulary;  // printable token -> id
  std::vector<std::pair<std::string, std::string>> merges;
  bool ignore_merges = false;  // a piece that is a token as it stands is not merged anew
  std::unordered_map<std::string, int32_t> whole_tokens;  // bytes -> id, if ignore_merges
  std::optional<SpaceMarks> space_marks;  // of tokens that are characters, not bytes
  std::vector<std::string> begin_tokens;  // that a prompt begins with; encode() does not add them
  std::string chat_template;              // Jinja, as a GGUF file has it; empty if it has none
};

// Reads the text of a tokenizer.json.
// Errors: kDataLoss for broken JSON, fields missing or of another type, and ids given twice;
// kUnsupported for a model, normalizer, pre-tokenizer, post-processor or decoder without code
// here, naming it and what there is.
Result<TokenizerFile> parse_tokenizer_file(std::string_view json);

}  // namespace vkv
