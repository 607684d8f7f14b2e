// CRC-32C: both engines give the published values, and each other's on every length and alignment.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/crc32c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

namespace vkv {
namespace {

using Engine = uint32_t (*)(std::span<const std::byte>);

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// One bit at a time, straight from the definition.
uint32_t crc32c_by_definition(std::span<const std::byte> bytes) {
  uint32_t remainder = ~uint32_t{0};
  for (const std::byte byte : bytes) {
    remainder ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? 0x82f63b78 : 0);
    }
  }
  return ~remainder;
}

std::vector<Engine> engines() {
  std::vector<Engine> engines = {crc32c_by_table, crc32c};
  if (cpu_has_sse42()) engines.push_back(crc32c_by_sse42);
  return engines;
}

TEST(crc32c, published_values_come_out) {
  std::vector<std::byte> zeros(32, std::byte{0}), ones(32, std::byte{0xff}), rising(32);
  for (size_t i = 0; i < 32; ++i) rising[i] = static_cast<std::byte>(i);
  for (const Engine engine : engines()) {
    EXPECT_EQ(engine({}), 0u);
    EXPECT_EQ(engine(bytes_of("123456789")), 0xe3069283u);  // the check value of the catalogues
    EXPECT_EQ(engine(zeros), 0x8a9136aau);                  // these three: RFC 3720, B.4
    EXPECT_EQ(engine(ones), 0x62a8ab43u);
    EXPECT_EQ(engine(rising), 0x46dd794eu);
  }
}

TEST(crc32c, every_length_around_the_stripes_agrees_with_the_definition) {
  std::mt19937 random(20240607);
  std::vector<std::byte> bytes(3 * 8192 + 3 * 256 + 64);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  std::vector<size_t> lengths = {768, 767, 769, 4096, 24575, 24576, 24577, bytes.size() - 8};
  for (size_t length = 1; length < 40; ++length) lengths.push_back(length);
  for (const size_t length : lengths) {
    const size_t offset = length % 8;  // unaligned starts too
    const auto part = std::span(bytes).subspan(offset, length);
    const uint32_t expected = crc32c_by_definition(part);
    for (const Engine engine : engines()) EXPECT_EQ(engine(part), expected) << length << " bytes";
  }
}

TEST(crc32c, a_flipped_bit_anywhere_changes_the_sum) {
  std::vector<std::byte> bytes(4096, std::byte{0x5a});
  const uint32_t sum = crc32c(bytes);
  for (size_t i = 0; i < bytes.size(); i += 37) {
    bytes[i] ^= std::byte{0x10};
    EXPECT_NE(crc32c(bytes), sum);
    bytes[i] ^= std::byte{0x10};
  }
}

}  // namespace
}  // namespace vkv
