// bpe.cpp: byte pair encoding, of bytes or of characters: text -> token ids.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/bpe.h"

#include <fmt/format.h>

#include <queue>

#include "tools/mllm/utf8.h"

namespace vkv {
namespace {

constexpr int kPrintableEnd = 0x144;  // 256 + the 68 bytes that are not printable themselves

// GPT-2: printable Latin-1 bytes stand for themselves, the others follow from U+0100 in order.
bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

std::array<int16_t, kPrintableEnd> make_byte_of_printable() {
  std::array<int16_t, kPrintableEnd> table;
  table.fill(-1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte)
    table[static_cast<size_t>(is_printable(byte) ? byte : next++)] = static_cast<int16_t>(byte);
  return table;
}

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

struct Symbol {
  int32_t token;
  int previous;  // index, -1: none
  int next;
};

// Two neighbours that may be joined. Stale once either of them has changed.
struct Candidate {
  int32_t rank;
  int at;  // index of the left one
  int32_t left, right, joined;
  // std::priority_queue gives the greatest: the lowest rank, then the leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : at > other.at;
  }
};

}  // namespace

std::optional<std::string> bytes_of_printable(std::string_view printable) {
  static const std::array<int16_t, kPrintableEnd> table = make_byte_of_printable();
  std::string bytes;
  for (size_t at = 0; at < printable.size();) {
    const Utf8Step step = utf8_step(printable.substr(at));
    if (!step.valid || step.character >= kPrintableEnd || table[step.character] < 0)
      return std::nullopt;
    bytes.push_back(static_cast<char>(table[step.character]));
    at += step.byte_count;
  }
  return bytes;
}

Result<BytePairEncoder> BytePairEncoder::make(
    const std::unordered_map<std::string, int32_t>& vocabulary,
    const std::vector<std::pair<std::string, std::string>>& merges) {
  BytePairEncoder encoder;
  encoder.byte_token_.fill(-1);
  for (const auto& [printable, id] : vocabulary) {
    const auto bytes = bytes_of_printable(printable);
    if (bytes && bytes->size() == 1) encoder.byte_token_[static_cast<uint8_t>((*bytes)[0])] = id;
  }
  for (size_t byte = 0x20; byte < 0x7f; ++byte)
    if (encoder.byte_token_[byte] < 0)
      return Status(Code::kUnsupported,
                    fmt::format("the vocabulary has no token for byte {:#04x}: it is not a "
                                "byte-level BPE",
                                byte));

  VKV_TRY(encoder.read_merges(vocabulary, merges));
  return encoder;
}

Result<BytePairEncoder> BytePairEncoder::make_by_characters(
    const std::unordered_map<std::string, int32_t>& vocabulary,
    const std::vector<std::pair<std::string, std::string>>& merges) {
  BytePairEncoder encoder;
  encoder.by_characters_ = true;
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto token = vocabulary.find(fmt::format("<0x{:02X}>", byte));
    if (token == vocabulary.end())
      return Status(Code::kUnsupported,
                    fmt::format("the vocabulary has no token <0x{:02X}>; byte_fallback needs one "
                                "for every byte",
                                byte));
    encoder.byte_token_[byte] = token->second;
  }
  for (const auto& [text, id] : vocabulary)
    if (!text.empty() && utf8_step(text).byte_count == text.size())
      encoder.character_token_[text] = id;
  VKV_TRY(encoder.read_merges(vocabulary, merges));
  return encoder;
}

Status BytePairEncoder::read_merges(
    const std::unordered_map<std::string, int32_t>& vocabulary,
    const std::vector<std::pair<std::string, std::string>>& merges) {
  merges_.reserve(merges.size());
  for (const auto& [left, right] : merges) {
    const auto left_token = vocabulary.find(left);
    const auto right_token = vocabulary.find(right);
    const auto joined = vocabulary.find(left + right);
    if (left_token == vocabulary.end() || right_token == vocabulary.end() ||
        joined == vocabulary.end())
      return Status(
          Code::kDataLoss,
          fmt::format("merge \"{} {}\" names a token that the vocabulary lacks", left, right));
    const auto rank = static_cast<int32_t>(merges_.size());
    merges_.emplace(pair_key(left_token->second, right_token->second), Merge{rank, joined->second});
  }
  return {};
}

const BytePairEncoder::Merge* BytePairEncoder::find(int32_t left, int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// What `bytes` are before anything is merged.
std::vector<int32_t> BytePairEncoder::first_tokens(std::string_view bytes) const {
  std::vector<int32_t> tokens;
  tokens.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t byte_count = by_characters_ ? utf8_step(bytes).byte_count : 1;
    const auto whole = by_characters_
                           ? character_token_.find(std::string(bytes.substr(0, byte_count)))
                           : character_token_.end();
    if (whole != character_token_.end()) {
      tokens.push_back(whole->second);
    } else {
      for (const char byte : bytes.substr(0, byte_count))
        if (const int32_t token = byte_token_[static_cast<uint8_t>(byte)]; token >= 0)
          tokens.push_back(token);
    }
    bytes.remove_prefix(byte_count);
  }
  return tokens;
}

void BytePairEncoder::encode(std::string_view bytes, std::vector<int32_t>& target) const {
  std::vector<Symbol> symbols;
  symbols.reserve(bytes.size());
  for (const int32_t token : first_tokens(bytes)) {
    const int index = static_cast<int>(symbols.size());
    symbols.push_back({token, index - 1, index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  const int count = static_cast<int>(symbols.size());

  std::priority_queue<Candidate> candidates;
  const auto consider = [&](int at) {
    if (at < 0 || symbols[static_cast<size_t>(at)].next < 0) return;
    const int32_t left = symbols[static_cast<size_t>(at)].token;
    const int32_t right = symbols[static_cast<size_t>(symbols[static_cast<size_t>(at)].next)].token;
    if (const Merge* merge = find(left, right))
      candidates.push({merge->rank, at, left, right, merge->token});
  };
  for (int i = 0; i < count; ++i) consider(i);

  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = symbols[static_cast<size_t>(best.at)];
    if (left.token != best.left || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (right.token != best.right) continue;

    left.token = best.joined;
    right.token = -1;  // joined: no candidate finds it any more
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.at;
    consider(left.previous);
    consider(best.at);
  }
  for (const Symbol& symbol : symbols)
    if (symbol.token >= 0) target.push_back(symbol.token);
}

}  // namespace vkv
