// gguf_tokenizer.cpp: the tokenizer in a GGUF file.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "tools/mllm/gguf_checkpoint.h"

namespace vkv {
namespace {

using Strings = std::vector<std::string_view>;

// A pre-tokenizer by its name in the file: patterns that cut the text one after another. Names and
// patterns are llama.cpp's.
struct PreTokenizer {
  std::string_view name;
  std::vector<const char*> patterns;
};

const std::vector<PreTokenizer>& pre_tokenizers() {
  static const std::vector<PreTokenizer> list = {
      {"gpt-2", {kGpt2Pattern}},
      // Each digit is a piece of its own.
      {"smollm", {R"(\p{N})", kGpt2Pattern}},
      {"qwen2",
       {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
        R"(\s*[\r\n]+|\s+(?!\S)|\s+)"}},
  };
  return list;
}

// llama.cpp's token types. Of the others, normal (1) and byte (6) are vocabulary; unknown (2) and
// unused (5) are too, and merges never make them.
constexpr int64_t kControlToken = 3;
constexpr int64_t kUserToken = 4;

Status broken(const GgufFile& file, const std::string& what) {
  return {Code::kDataLoss, fmt::format("{}: {}", file.path(), what)};
}

Status check_kind(const GgufFile& file) {
  const auto* const model = file.get<std::string_view>("tokenizer.ggml.model");
  if (model == nullptr) return broken(file, "no tokenizer.ggml.model");
  if (*model != "gpt2")
    return {Code::kUnsupported,
            fmt::format("{}: the tokenizer's model is {:?}; there is \"gpt2\" (byte-level BPE)",
                        file.path(), *model)};
  for (const char* option : {"add_bos_token", "add_eos_token", "add_space_prefix"}) {
    const auto* const value = file.get<bool>(std::string("tokenizer.ggml.") + option);
    if (value != nullptr && *value)
      return {Code::kUnsupported,
              fmt::format("{}: tokenizer.ggml.{}, which is not there", file.path(), option)};
  }
  return {};
}

Status read_patterns(const GgufFile& file, TokenizerFile& target) {
  const auto* const name = file.get<std::string_view>("tokenizer.ggml.pre");
  std::vector<std::string_view> known;
  for (const PreTokenizer& pre : pre_tokenizers()) {
    known.push_back(pre.name);
    if (name == nullptr || *name != pre.name) continue;
    for (const char* pattern : pre.patterns) {
      VKV_TRY_ASSIGN(splitter, TextSplitter::make(pattern, false));
      target.split_steps.push_back({std::move(splitter), false});
    }
    return {};
  }
  return {Code::kUnsupported,
          fmt::format("{}: {}; there are {}", file.path(),
                      name == nullptr ? "no tokenizer.ggml.pre"
                                      : fmt::format("the pre-tokenizer is {:?}", *name),
                      fmt::join(known, " "))};
}

Status read_tokens(const GgufFile& file, TokenizerFile& target) {
  const auto* const tokens = file.get<Strings>("tokenizer.ggml.tokens");
  const auto* const types = file.get<std::vector<int64_t>>("tokenizer.ggml.token_type");
  if (tokens == nullptr || types == nullptr || tokens->size() != types->size())
    return broken(file, "tokenizer.ggml.tokens and token_type are missing or differ in number");
  for (size_t i = 0; i < tokens->size(); ++i) {
    const std::string token((*tokens)[i]);
    const auto id = static_cast<int32_t>(i);
    const int64_t type = (*types)[i];
    if (!target.vocabulary.emplace(token, id).second)
      return broken(file,
                    fmt::format("tokens {} and {} are the same", target.vocabulary.at(token), id));
    if ((type == kControlToken || type == kUserToken) && !token.empty())
      target.added.push_back(
          {.content = token, .id = id, .special = type == kControlToken, .normalised = false});
  }
  return {};
}

// "a b": tokens as the file prints them, without spaces.
Status read_merges(const GgufFile& file, TokenizerFile& target) {
  const auto* const merges = file.get<Strings>("tokenizer.ggml.merges");
  if (merges == nullptr) return broken(file, "no tokenizer.ggml.merges");
  for (const std::string_view merge : *merges) {
    const size_t space = merge.find(' ');
    if (space == merge.npos || space != merge.rfind(' '))
      return broken(file, fmt::format("merge {} is not a pair of tokens", target.merges.size()));
    target.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return {};
}

}  // namespace

Result<TokenizerFile> gguf_tokenizer(const GgufFile& file) {
  TokenizerFile target;
  VKV_TRY(check_kind(file));
  VKV_TRY(read_patterns(file, target));
  VKV_TRY(read_tokens(file, target));
  VKV_TRY(read_merges(file, target));
  if (const auto* const text = file.get<std::string_view>("tokenizer.chat_template"))
    target.chat_template = *text;
  return target;
}

}  // namespace vkv
