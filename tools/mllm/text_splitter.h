// text_splitter.h: cutting text into the pieces that BPE works on, by a regular expression.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "vkv/status.h"

namespace vkv {

// Immutable; any thread may call.
class TextSplitter {
 public:
  // PCRE2 with Unicode properties. `literal` takes the pattern as plain characters.
  // Errors: kUnsupported for a pattern that PCRE2 refuses, with its reason.
  static Result<TextSplitter> make(const std::string& pattern, bool literal);

  // Matches and what lies between them, in order, without empty pieces ("isolated").
  // `text` is valid UTF-8; the pieces point into it. Errors: kInvalidArgument if matching takes
  // more steps than any real text needs.
  Result<std::vector<std::string_view>> split(std::string_view text) const;

 private:
  struct Free {
    void operator()(void* code) const;
  };
  explicit TextSplitter(void* code) : code_(code) {}
  std::unique_ptr<void, Free> code_;  // pcre2_code
};

}  // namespace vkv
