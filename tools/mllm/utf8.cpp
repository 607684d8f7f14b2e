// utf8.cpp: walking over UTF-8 that may be broken, and Unicode normalisation.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/utf8.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <cstdlib>
#include <memory>

namespace vkv {

Utf8Step utf8_step(std::string_view text) {
  const auto byte_at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte_at(0);
  if (lead < 0x80) return {1, lead, true, false};

  // What the second byte may be depends on the first: no overlong forms, surrogates or > U+10FFFF.
  size_t byte_count = 0;
  uint8_t least = 0x80, most = 0xbf;
  if (lead >= 0xc2 && lead <= 0xdf) {
    byte_count = 2;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    byte_count = 3;
    if (lead == 0xe0) least = 0xa0;
    if (lead == 0xed) most = 0x9f;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    byte_count = 4;
    if (lead == 0xf0) least = 0x90;
    if (lead == 0xf4) most = 0x8f;
  } else {
    return {1, 0, false, false};
  }

  char32_t character = lead & (0x7fu >> byte_count);
  for (size_t i = 1; i < byte_count; ++i) {
    if (i == text.size()) return {i, 0, false, true};
    if (byte_at(i) < least || byte_at(i) > most) return {i, 0, false, false};
    character = character << 6 | (byte_at(i) & 0x3fu);
    least = 0x80;
    most = 0xbf;
  }
  return {byte_count, character, true, false};
}

Status check_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text.substr(at));
    if (!step.valid)
      return {Code::kInvalidArgument, fmt::format("byte {} of the text is not UTF-8", at)};
    at += step.byte_count;
  }
  return {};
}

void append_utf8(char32_t character, std::string& target) {
  uint8_t bytes[4];
  const utf8proc_ssize_t byte_count =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(character), bytes);
  target.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(byte_count));
}

Result<std::string> normalise(std::string_view text, NormalForm form) {
  if (form == NormalForm::kNone || text.empty()) return std::string(text);
  int options = UTF8PROC_STABLE;
  options |=
      form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;

  uint8_t* mapped = nullptr;
  const utf8proc_ssize_t byte_count = utf8proc_map(
      reinterpret_cast<const uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
      &mapped, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<uint8_t, void (*)(void*)> owner(mapped, std::free);
  if (byte_count < 0)
    return Status(Code::kInvalidArgument,
                  fmt::format("text cannot be normalised: {}", utf8proc_errmsg(byte_count)));
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(byte_count));
}

}  // namespace vkv
