// write_ledger.cpp: a budget that is spent and comes back, and the note that a file carries.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/write_ledger.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/byte_stream.h"
#include "transfer/crc32c.h"

namespace vkv {
namespace {

constexpr std::string_view kMagic = "VKVWRITE";
constexpr uint32_t kVersion = 1;
constexpr double kDayUs = 24.0 * 3600 * 1e6;

}  // namespace

std::vector<std::byte> encode(const WriteNote& note) {
  std::vector<std::byte> bytes;
  ByteWriter writer(bytes);
  writer.put_text(kMagic);
  writer.put(kVersion);
  writer.put(note.payload_bytes);
  writer.put(note.written_bytes);
  writer.put(note.spent_bytes);
  writer.put(note.at_us);
  writer.put(crc32c(bytes));
  return bytes;
}

std::optional<WriteNote> decode_write_note(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  reader.expect_text(kMagic);
  if (reader.get<uint32_t>() != kVersion) return std::nullopt;
  WriteNote note;
  note.payload_bytes = reader.get<uint64_t>();
  note.written_bytes = reader.get<uint64_t>();
  note.spent_bytes = reader.get<uint64_t>();
  note.at_us = reader.get<uint64_t>();
  const auto checksum = reader.get<uint32_t>();
  const bool is_whole = reader.ok() && reader.bytes_left() == 0 &&
                        checksum == crc32c(bytes.first(bytes.size() - sizeof(checksum)));
  return is_whole ? std::optional(note) : std::nullopt;
}

void WriteLedger::begin_with(const WriteNote& note) {
  spent_ = static_cast<double>(note.spent_bytes);
  at_us_ = note.at_us;
}

void WriteLedger::recover(uint64_t now_us) {
  at_us_ = std::min(at_us_, now_us);  // a clock that was set back
  const double days = static_cast<double>(now_us - at_us_) / kDayUs;
  spent_ = std::max(0.0, spent_ - days * static_cast<double>(bytes_per_day_));
  at_us_ = now_us;
}

uint64_t WriteLedger::spent(uint64_t now_us) {
  recover(now_us);
  return static_cast<uint64_t>(std::ceil(spent_));
}

uint64_t WriteLedger::left(uint64_t now_us) {
  if (!is_limited()) return kNoWriteLimit;
  return bytes_per_day_ - std::min(bytes_per_day_, spent(now_us));
}

bool WriteLedger::spend(uint64_t byte_count, uint64_t now_us) {
  if (left(now_us) < byte_count) return false;
  spend_anyway(byte_count, now_us);
  return true;
}

void WriteLedger::spend_anyway(uint64_t byte_count, uint64_t now_us) {
  recover(now_us);
  spent_ += static_cast<double>(byte_count);
}

}  // namespace vkv
