// mutated_text.h: what fuzzers of text have in common.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>

namespace vkv {

// Flips, overwrites, cuts, doubles, and inserts pieces that the format knows; up to 4 edits.
inline std::string mutated(std::string text, std::span<const std::string> pieces,
                           std::mt19937_64& random) {
  for (uint64_t edits = 1 + random() % 4; edits > 0 && !text.empty(); --edits) {
    const size_t at = random() % text.size();
    switch (random() % 6) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ (1 << random() % 8));
        break;
      case 1:
        text[at] = static_cast<char>(random());
        break;
      case 2:
        text.erase(at, random() % 40);
        break;
      case 3:
        text.insert(at, text.substr(random() % text.size(), random() % 200));
        break;
      default: {
        const std::string& piece = pieces[random() % pieces.size()];
        text.replace(at, random() % 2 == 0 ? 0 : piece.size(), piece);
        break;
      }
    }
  }
  return text;
}

}  // namespace vkv
