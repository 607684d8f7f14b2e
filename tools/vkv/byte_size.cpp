// byte_size.cpp: reads and writes sizes.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/byte_size.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

namespace vkv {
namespace {

constexpr std::string_view kUnits = "KMGT";

}  // namespace

Result<uint64_t> parse_byte_size(std::string_view text) {
  const Status wrong(Code::kInvalidArgument,
                     fmt::format("\"{}\" is no size; write a number with K, M, G or T (powers of "
                                 "1024), like 512M or 1.5G, or plain bytes",
                                 text));
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return wrong;

  std::string_view unit(rest, static_cast<size_t>(end - rest));
  if (unit.ends_with("iB") && unit.size() == 3) {
    unit.remove_suffix(2);
  } else if (unit.ends_with("B")) {
    unit.remove_suffix(1);
  }
  int shift = 0;
  if (unit.size() == 1) {
    const char letter =
        unit[0] >= 'a' && unit[0] <= 'z' ? static_cast<char>(unit[0] - 32) : unit[0];
    const size_t index = kUnits.find(letter);
    if (index == std::string_view::npos) return wrong;
    shift = 10 * (static_cast<int>(index) + 1);
  } else if (!unit.empty()) {
    return wrong;
  }
  const double bytes = std::ldexp(number, shift);
  if (bytes >= 0x1p63) return wrong;
  return static_cast<uint64_t>(bytes);
}

Status read_byte_size(std::string_view flag, std::string_view text, uint64_t& target) {
  if (text.empty()) return {};
  const Result<uint64_t> bytes = parse_byte_size(text);
  if (!bytes.ok())
    return {bytes.status().code(), std::string(flag) + ": " + bytes.status().message()};
  target = bytes.value();
  return {};
}

std::string byte_size_text(uint64_t byte_count) {
  if (byte_count < 1024) return fmt::format("{} B", byte_count);
  double value = static_cast<double>(byte_count) / 1024;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}iB", value, kUnits[unit]);
}

}  // namespace vkv
