// tokenizer.cpp: BPE as a Hugging Face tokenizer.json or a GGUF file describes it.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/tokenizer.h"

#include <algorithm>
#include <cctype>
#include <unordered_map>
#include <utility>

#include "tools/mllm/bpe.h"
#include "tools/mllm/gguf_checkpoint.h"
#include "tools/mllm/mapped_file.h"
#include "tools/mllm/text_splitter.h"
#include "tools/mllm/tokenizer_file.h"
#include "tools/mllm/utf8.h"

namespace vkv {
namespace {

constexpr size_t kTokenizerBytesMax = size_t{256} << 20;
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// Appends the whole characters of `bytes`, broken ones as U+FFFD, and returns how many bytes are
// done. An unfinished character at the end is left, unless `at_end`.
size_t append_characters(std::string_view bytes, bool at_end, std::string& target) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Step step = utf8_step(bytes.substr(at));
    if (step.incomplete && !at_end) break;
    target += step.valid ? bytes.substr(at, step.byte_count) : kReplacement;
    at += step.byte_count;
  }
  return at;
}

// The tokenizer, or its error with the place in front.
Result<Tokenizer> at_path(const std::string& place, Result<Tokenizer> tokenizer) {
  if (tokenizer.ok()) return tokenizer;
  return Status(tokenizer.status().code(), place + tokenizer.status().message());
}

// Of a token that is characters: "<0x0A>" is a byte, and marks are spaces.
std::string bytes_of_marked(const std::string& token) {
  const auto is_digit = [&](size_t at) {
    return std::isxdigit(static_cast<unsigned char>(token[at])) != 0;
  };
  if (token.size() == 6 && token.starts_with("<0x") && token[5] == '>' && is_digit(3) &&
      is_digit(4))
    return {static_cast<char>(std::stoi(token.substr(3, 2), nullptr, 16))};
  std::string bytes = token;
  const std::string_view mark = kSpaceMark;
  for (size_t at = bytes.find(mark); at != bytes.npos; at = bytes.find(mark, at))
    bytes.replace(at, mark.size(), 1, ' ');
  return bytes;
}

struct AddedMatch {
  size_t begin = 0;
  size_t end = 0;
  int32_t id = -1;
};

// Added tokens by first byte, longest first: the leftmost, then longest match wins.
class AddedMatcher {
 public:
  void add(const std::string& content, int32_t id) {
    auto& bucket = buckets_[static_cast<uint8_t>(content[0])];
    bucket.emplace_back(content, id);
    std::stable_sort(bucket.begin(), bucket.end(),
                     [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  }

  std::optional<AddedMatch> find(std::string_view text, size_t from) const {
    for (size_t at = from; at < text.size(); ++at)
      for (const auto& [content, id] : buckets_[static_cast<uint8_t>(text[at])])
        if (text.substr(at, content.size()) == content)
          return AddedMatch{at, at + content.size(), id};
    return std::nullopt;
  }

 private:
  std::array<std::vector<std::pair<std::string, int32_t>>, 256> buckets_;
};

}  // namespace

struct Tokenizer::Parts {
  TokenizerFile file;
  BytePairEncoder encoder;
  AddedMatcher raw_added;                          // looked for before normalisation
  AddedMatcher normalised_added;                   // and after it
  std::unordered_map<int32_t, std::string> bytes;  // of every token but special ones
  std::unordered_map<int32_t, bool> special;       // added token -> is special
  int32_t id_max = 0;

  Status encode_text(std::string_view text, bool parse_added, std::vector<int32_t>& target) const;
  void encode_with_marks(std::string_view text, TextPlace place,
                         std::vector<int32_t>& target) const;
  Status encode_pieces(std::string_view text, std::vector<int32_t>& target) const;
};

// Text without raw added tokens.
Status Tokenizer::Parts::encode_text(std::string_view text, bool parse_added,
                                     std::vector<int32_t>& target) const {
  VKV_TRY_ASSIGN(normal, normalise(text, file.normal_form));
  size_t done = 0;
  while (parse_added) {
    const auto match = normalised_added.find(normal, done);
    if (!match) break;
    VKV_TRY(encode_pieces(std::string_view(normal).substr(done, match->begin - done), target));
    target.push_back(match->id);
    done = match->end;
  }
  return encode_pieces(std::string_view(normal).substr(done), target);
}

// Text without added tokens, of a tokenizer whose tokens are characters.
void Tokenizer::Parts::encode_with_marks(std::string_view text, TextPlace place,
                                         std::vector<int32_t>& target) const {
  if (text.empty()) return;
  const SpaceMarks& marks = *file.space_marks;
  const bool here = marks.before == SpaceMarks::Before::kEachText ||
                    (marks.before == SpaceMarks::Before::kInput && place == TextPlace::kFirst);
  const bool begins_with_mark = text[0] == ' ' || text.starts_with(kSpaceMark);
  const bool with_mark = here && (marks.even_behind_space || !begins_with_mark);
  std::string marked(with_mark ? kSpaceMark : "");
  for (const char byte : text) {
    if (byte == ' ')
      marked += kSpaceMark;
    else
      marked += byte;
  }
  for (size_t begin = 0; begin < marked.size();) {
    const size_t end = marks.split ? marked.find(kSpaceMark, begin + 1) : marked.npos;
    encoder.encode(std::string_view(marked).substr(begin, end - begin), target);
    begin = std::min(end, marked.size());
  }
}

// Normalised text without added tokens.
Status Tokenizer::Parts::encode_pieces(std::string_view text, std::vector<int32_t>& target) const {
  if (text.empty()) return {};
  // Pieces own their bytes only where a prefix space was put before them.
  std::vector<std::string> pieces = {std::string(text)};
  for (const SplitStep& step : file.split_steps) {
    std::vector<std::string> next;
    for (std::string& piece : pieces) {
      if (step.add_prefix_space && piece[0] != ' ') piece.insert(piece.begin(), ' ');
      if (!step.splitter) {
        next.push_back(std::move(piece));
        continue;
      }
      VKV_TRY_ASSIGN(parts, step.splitter->split(piece));
      next.insert(next.end(), parts.begin(), parts.end());
    }
    pieces = std::move(next);
  }
  for (const std::string& piece : pieces) {
    if (file.ignore_merges) {
      const auto whole = file.whole_tokens.find(piece);
      if (whole != file.whole_tokens.end()) {
        target.push_back(whole->second);
        continue;
      }
    }
    encoder.encode(piece, target);
  }
  return {};
}

Result<Tokenizer> Tokenizer::load(const std::string& path) {
  if (is_gguf_path(path)) {
    VKV_TRY_ASSIGN(gguf, GgufFile::open(path));
    VKV_TRY_ASSIGN(file, gguf_tokenizer(gguf));
    return at_path(path + ": ", make(std::move(file)));
  }
  auto text = read_text_file(path + "/tokenizer.json", kTokenizerBytesMax);
  if (!text.ok() && text.status().code() == Code::kNotFound)
    return Status(Code::kNotFound,
                  path +
                      ": no tokenizer.json; other tokenizer files are not read: save the "
                      "tokenizer as a fast tokenizer");
  if (!text.ok()) return text.status();
  return at_path(path + "/", parse(text.value()));
}

Result<Tokenizer> Tokenizer::parse(std::string_view json) {
  VKV_TRY_ASSIGN(file, parse_tokenizer_file(json));
  return at_path("tokenizer.json: ", make(std::move(file)));
}

Result<Tokenizer> Tokenizer::make(TokenizerFile file) {
  const bool has_marks = file.space_marks.has_value();
  VKV_TRY_ASSIGN(encoder, has_marks
                              ? BytePairEncoder::make_by_characters(file.vocabulary, file.merges)
                              : BytePairEncoder::make(file.vocabulary, file.merges));
  auto parts =
      std::make_unique<Parts>(Parts{.file = std::move(file), .encoder = std::move(encoder)});
  for (const auto& [printable, id] : parts->file.vocabulary) {
    // A token with other characters is its own text: it was added, not merged.
    parts->bytes[id] =
        has_marks ? bytes_of_marked(printable) : bytes_of_printable(printable).value_or(printable);
    parts->id_max = std::max(parts->id_max, id);
  }
  for (const AddedToken& added : parts->file.added) {
    parts->special[added.id] = added.special;
    parts->id_max = std::max(parts->id_max, added.id);
    parts->bytes[added.id] = added.special ? "" : added.content;
    if (!added.normalised) {
      parts->raw_added.add(added.content, added.id);
      continue;
    }
    VKV_TRY_ASSIGN(content, normalise(added.content, parts->file.normal_form));
    if (!content.empty()) parts->normalised_added.add(content, added.id);
  }
  return Tokenizer(std::move(parts));
}

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, AddedTokens added,
                                               TextPlace place) const {
  VKV_TRY(check_utf8(text));
  const bool parse_added = added == AddedTokens::kParse;
  std::vector<int32_t> tokens;
  size_t done = 0;
  const auto encode_part = [&](std::string_view part) -> Status {
    if (!parts_->file.space_marks) return parts_->encode_text(part, parse_added, tokens);
    parts_->encode_with_marks(part, done == 0 ? place : TextPlace::kBehind, tokens);
    return {};
  };
  while (parse_added) {
    const auto match = parts_->raw_added.find(text, done);
    if (!match) break;
    VKV_TRY(encode_part(text.substr(done, match->begin - done)));
    tokens.push_back(match->id);
    done = match->end;
  }
  VKV_TRY(encode_part(text.substr(done)));
  return tokens;
}

std::string Tokenizer::decode(std::span<const int32_t> tokens) const {
  std::string bytes;
  for (const int32_t token : tokens) bytes += token_bytes(token);
  if (strips_first_space() && bytes.starts_with(' ')) bytes.erase(0, 1);
  std::string text;
  append_characters(bytes, true, text);
  return text;
}

std::string_view Tokenizer::token_bytes(int32_t token) const {
  const auto found = parts_->bytes.find(token);
  return found == parts_->bytes.end() ? std::string_view() : std::string_view(found->second);
}

std::optional<int32_t> Tokenizer::find(std::string_view token) const {
  for (const AddedToken& added : parts_->file.added)
    if (added.content == token) return added.id;
  const auto found = parts_->file.vocabulary.find(std::string(token));
  if (found == parts_->file.vocabulary.end()) return std::nullopt;
  return found->second;
}

bool Tokenizer::is_special(int32_t token) const {
  const auto found = parts_->special.find(token);
  return found != parts_->special.end() && found->second;
}

int32_t Tokenizer::id_max() const { return parts_->id_max; }

const std::vector<std::string>& Tokenizer::begin_tokens() const {
  return parts_->file.begin_tokens;
}
bool Tokenizer::has_space_marks() const { return parts_->file.space_marks.has_value(); }
bool Tokenizer::strips_first_space() const {
  return has_space_marks() && parts_->file.space_marks->strip_first;
}

const std::string& Tokenizer::chat_template() const { return parts_->file.chat_template; }

std::string TextStream::without_first_space(std::string text) {
  if (text.empty() || !std::exchange(is_first_, false)) return text;
  if (tokenizer_->strips_first_space() && text[0] == ' ') text.erase(0, 1);
  return text;
}

std::string TextStream::push(int32_t token) {
  pending_ += tokenizer_->token_bytes(token);
  std::string text;
  pending_.erase(0, append_characters(pending_, false, text));
  return without_first_space(std::move(text));
}

std::string TextStream::finish() {
  std::string text;
  append_characters(pending_, true, text);
  pending_.clear();
  return without_first_space(std::move(text));
}

}  // namespace vkv
