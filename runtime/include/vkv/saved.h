// saved.h: sequences that outlive their process, in the store of the NVMe tier.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>

namespace vkv {

// Names a saved sequence: 256 bits of a hash that no two contents share (SHA-256) over all that its
// K and V depend on: the model and its weights, token ids, pixels, preprocessing. The cache adds
// shape, codecs and precision policy itself.
struct SequenceKey {
  std::array<uint8_t, 32> bytes{};
  auto operator<=>(const SequenceKey&) const = default;
};

// 64 lower-case digits.
inline std::string to_hex(const SequenceKey& key) {
  std::string text;
  for (const uint8_t byte : key.bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

// A sequence as the store lists it.
struct SavedSequence {
  SequenceKey key;
  uint32_t token_count = 0;
  uint64_t byte_count = 0;    // on disk; extents that sequences share count for each
  uint64_t saved_at = 0;      // seconds since 1970
  bool fits_options = false;  // the cache's options are those it was saved with: restore() takes it
};

}  // namespace vkv
