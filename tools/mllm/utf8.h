// utf8.h: walking over UTF-8 that may be broken, and Unicode normalisation.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "vkv/status.h"

namespace vkv {

struct Utf8Step {
  size_t byte_count = 0;  // of the character, or of the broken piece that U+FFFD replaces
  char32_t character = 0;
  bool valid = false;
  bool incomplete = false;  // the text ends inside a character that may still become valid
};

// The character at the start of `text`, which is not empty. A broken piece is the longest prefix
// of a valid character (Unicode 15, section 3.9, "maximal subpart"), as other decoders count it.
Utf8Step utf8_step(std::string_view text);

// Errors: kInvalidArgument, naming the first bad byte.
Status check_utf8(std::string_view text);

void append_utf8(char32_t character, std::string& target);

enum class NormalForm : uint8_t { kNone, kNfc, kNfd, kNfkc, kNfkd };

// `text` is valid UTF-8.
Result<std::string> normalise(std::string_view text, NormalForm form);

}  // namespace vkv
