// text_splitter.cpp: cutting text into the pieces that BPE works on, by a regular expression.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/text_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "tools/mllm/utf8.h"

namespace vkv {
namespace {

// PCRE2's own default for steps; its default for memory, 20 GB, is too much for a bad pattern.
constexpr uint32_t kMatchStepsMax = 10'000'000;
constexpr uint32_t kHeapKibMax = 64 << 10;

std::string pcre2_message(int error) {
  PCRE2_UCHAR buffer[128] = {};
  pcre2_get_error_message(error, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

struct MatchState {
  explicit MatchState(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)) {
    if (context == nullptr) return;
    pcre2_set_match_limit(context, kMatchStepsMax);
    pcre2_set_heap_limit(context, kHeapKibMax);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
  ~MatchState() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }

  pcre2_match_data* data;
  pcre2_match_context* context;
};

}  // namespace

void TextSplitter::Free::operator()(void* code) const {
  pcre2_code_free(static_cast<pcre2_code*>(code));
}

Result<TextSplitter> TextSplitter::make(const std::string& pattern, bool literal) {
  int error = 0;
  size_t error_at = 0;
  const uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP);
  pcre2_code* const code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()),
                                         pattern.size(), options, &error, &error_at, nullptr);
  if (code == nullptr)
    return Status(Code::kUnsupported,
                  fmt::format("pattern \"{}\" at {}: {}", pattern, error_at, pcre2_message(error)));
  return TextSplitter(code);
}

Result<std::vector<std::string_view>> TextSplitter::split(std::string_view text) const {
  const auto* const code = static_cast<const pcre2_code*>(code_.get());
  const MatchState state(code);
  if (state.data == nullptr || state.context == nullptr)
    return Status(Code::kOutOfMemory, "no memory to split text");

  std::vector<std::string_view> pieces;
  const auto add = [&](size_t begin, size_t end) {
    if (begin < end) pieces.push_back(text.substr(begin, end - begin));
  };
  size_t done = 0;  // everything before is in pieces
  for (size_t at = 0; at < text.size();) {
    const int match_count =
        pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                    PCRE2_NO_UTF_CHECK, state.data, state.context);
    if (match_count == PCRE2_ERROR_NOMATCH) break;
    if (match_count < 0)
      return Status(Code::kInvalidArgument,
                    fmt::format("text cannot be split: {}", pcre2_message(match_count)));
    const size_t* const ends = pcre2_get_ovector_pointer(state.data);
    const size_t begin = ends[0], end = ends[1];
    // \K in a lookaround can put a match before its start, or turn it round.
    if (begin < done || end < begin || end > text.size())
      return Status(Code::kInvalidArgument, "text cannot be split: the pattern uses \\K");
    add(done, begin);
    add(begin, end);
    done = end;
    // An empty match must not stop the walk.
    at = end > at ? end : end + utf8_step(text.substr(end)).byte_count;
  }
  add(done, text.size());
  return pieces;
}

}  // namespace vkv
