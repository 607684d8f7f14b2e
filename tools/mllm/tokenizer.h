// tokenizer.h: BPE as a Hugging Face tokenizer.json or a GGUF file describes it: byte-level, or
// SentencePiece's kind with bytes for what is in no token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vkv/status.h"

namespace vkv {

// Immutable after load(); any thread may call.
class Tokenizer {
 public:
  // kParse finds added tokens ("</s>") in the text; kPlain takes them as ordinary characters, so
  // that a user's text cannot end the prompt or claim an image.
  enum class AddedTokens : uint8_t { kParse, kPlain };

  // Whether the text begins the input or follows other tokens: some put a space before the first.
  enum class TextPlace : uint8_t { kFirst, kBehind };

  // Reads tokenizer.json of a folder, or a GGUF file. Errors: kNotFound; kDataLoss for a file that
  // is broken or contradicts itself; kUnsupported for a component that is not known, by name.
  static Result<Tokenizer> load(const std::string& path);
  static Result<Tokenizer> parse(std::string_view json);  // of a tokenizer.json

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Errors: kInvalidArgument if `text` is not UTF-8, naming the byte.
  Result<std::vector<int32_t>> encode(std::string_view text, AddedTokens added,
                                      TextPlace place = TextPlace::kFirst) const;

  // The text of the tokens without special tokens; bytes that are no UTF-8 become U+FFFD. Ids that
  // the vocabulary lacks add nothing (models often have more rows than the tokenizer has tokens).
  std::string decode(std::span<const int32_t> tokens) const;

  // The bytes of one token; empty for special tokens and unknown ids.
  std::string_view token_bytes(int32_t token) const;

  std::optional<int32_t> find(std::string_view token) const;  // of an added or vocabulary token
  bool is_special(int32_t token) const;
  int32_t id_max() const;  // the greatest id that there is
  // Tokens that every input begins with, for who builds a prompt; encode() does not add them.
  const std::vector<std::string>& begin_tokens() const;
  bool has_space_marks() const;              // of SentencePiece's kind
  bool strips_first_space() const;           // decoded text loses one
  const std::string& chat_template() const;  // Jinja, of a GGUF file; empty if it has none

 private:
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);
  static Result<Tokenizer> make(struct TokenizerFile file);
  std::unique_ptr<const Parts> parts_;
};

// Turns tokens into text as they come: holds back a character until its last byte is there.
class TextStream {
 public:
  explicit TextStream(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  std::string push(int32_t token);  // whole characters that are complete now
  std::string finish();             // what is left, as U+FFFD

 private:
  const Tokenizer* tokenizer_;  // outlives the stream
  std::string pending_;         // the first bytes of an unfinished character
  bool is_first_ = true;        // nothing came out yet

  std::string without_first_space(std::string text);
};

}  // namespace vkv
