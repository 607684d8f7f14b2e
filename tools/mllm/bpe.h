// bpe.h: byte pair encoding, of bytes or of characters: text -> token ids.
// SPDX-License-Identifier: Apache-2.0
//
// tokenizer.json writes bytes as printable characters (GPT-2's table: 0x20 is U+0120); here tokens
// are their bytes. Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with
// Subword Units"; bytes as in GPT-2.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "vkv/status.h"

namespace vkv {

// The bytes that GPT-2's printable characters stand for; nothing if one of them stands for none.
std::optional<std::string> bytes_of_printable(std::string_view printable);

// Immutable; any thread may call.
class BytePairEncoder {
 public:
  // `vocabulary`: printable token -> id. `merges`: pairs of printable tokens, best first.
  // Errors: kDataLoss if a merge names a token, or makes one, that the vocabulary lacks;
  // kUnsupported if a printable ASCII character has no token: it is no byte-level BPE. Other bytes
  // may lack one, as those that the training text did not have.
  static Result<BytePairEncoder> make(
      const std::unordered_map<std::string, int32_t>& vocabulary,
      const std::vector<std::pair<std::string, std::string>>& merges);

  // SentencePiece's way: a character that is a token stands for itself, any other for the tokens
  // "<0x00>" to "<0xFF>" of its bytes. Errors: as make; kUnsupported if one of these is missing.
  static Result<BytePairEncoder> make_by_characters(
      const std::unordered_map<std::string, int32_t>& vocabulary,
      const std::vector<std::pair<std::string, std::string>>& merges);

  // Appends the tokens of `bytes`; bytes without a token are left out, as in tokenizers and
  // llama.cpp. Time O(n log n).
  void encode(std::string_view bytes, std::vector<int32_t>& target) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t token;
  };
  BytePairEncoder() = default;
  Status read_merges(const std::unordered_map<std::string, int32_t>& vocabulary,
                     const std::vector<std::pair<std::string, std::string>>& merges);
  std::vector<int32_t> first_tokens(std::string_view bytes) const;
  const Merge* find(int32_t left, int32_t right) const;

  std::array<int32_t, 256> byte_token_{};
  bool by_characters_ = false;
  std::unordered_map<std::string, int32_t> character_token_;  // if by_characters_
  std::unordered_map<uint64_t, Merge> merges_;                // left id << 32 | right id
};

}  // namespace vkv
