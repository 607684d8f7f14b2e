// sha256.h: the hash of FIPS 180-4, for names that no two contents share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace vkv {

class Sha256 {
 public:
  void add(std::span<const std::byte> bytes);
  // The hash of all that was added; nothing may be added afterwards.
  std::array<uint8_t, 32> finish();

 private:
  void take_block(const std::byte* block);  // 64 bytes

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> block_{};
  uint64_t byte_count_ = 0;  // so far; the last byte_count_ % 64 lie in block_
};

}  // namespace vkv
