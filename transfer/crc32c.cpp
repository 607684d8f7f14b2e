// crc32c.cpp: CRC-32C by tables, eight bytes a step, and the choice of the engine.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

namespace vkv {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kPolynomial = 0x82f63b78;  // 0x1edc6f41, lowest bit first

// kTables[i][b]: what byte b does to the remainder i + 1 bytes later.
constexpr auto kTables = [] {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? kPolynomial : 0);
    }
    tables[0][byte] = remainder;
  }
  for (size_t i = 1; i < 8; ++i) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[i - 1][byte];
      tables[i][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}();

}  // namespace

uint32_t crc32c_by_table(std::span<const std::byte> bytes) {
  const std::byte* next = bytes.data();
  size_t left = bytes.size();
  uint32_t remainder = ~uint32_t{0};
  for (; left >= 8; next += 8, left -= 8) {
    uint64_t word = 0;
    std::memcpy(&word, next, 8);
    word ^= remainder;
    remainder = 0;
    for (int i = 0; i < 8; ++i) remainder ^= kTables[7 - i][(word >> (8 * i)) & 0xff];
  }
  for (; left > 0; ++next, --left) {
    remainder = (remainder >> 8) ^ kTables[0][(remainder ^ static_cast<uint32_t>(*next)) & 0xff];
  }
  return ~remainder;
}

bool cpu_has_sse42() { return __builtin_cpu_supports("sse4.2") != 0; }

uint32_t crc32c(std::span<const std::byte> bytes) {
  static const auto engine = cpu_has_sse42() ? crc32c_by_sse42 : crc32c_by_table;
  return engine(bytes);
}

}  // namespace vkv
