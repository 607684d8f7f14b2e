// write_ledger.h: what a file was written over its life, and how much a day may still bring.
// SPDX-License-Identifier: Apache-2.0
//
// Flash wears out by what is written, so writes have a budget in bytes a day. It is spent and comes
// back evenly: of a budget that was spent at once, half is there again after twelve hours. What a
// file says of it travels in an attribute of the file (kNoteName), so that a process that is
// started again does not begin a new day.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace vkv {

inline constexpr std::string_view kNoteName = "user.vkv.writes";
inline constexpr uint64_t kNoWriteLimit = UINT64_MAX;  // bytes a day

// Over the life of a file, by all who wrote to it.
struct WriteNote {
  uint64_t payload_bytes = 0;  // records and states, without what rounds them up
  uint64_t written_bytes = 0;  // to the file: these, rounded up, index and superblocks
  uint64_t spent_bytes = 0;    // of a day's budget, when it was written down
  uint64_t at_us = 0;          // microseconds since 1970
  bool operator==(const WriteNote&) const = default;
};

std::vector<std::byte> encode(const WriteNote& note);
// Nothing where the bytes are not just what encode() gives.
std::optional<WriteNote> decode_write_note(std::span<const std::byte> bytes);

// Not thread-safe. Times are microseconds since 1970; where one goes back, counting
// goes on from there.
class WriteLedger {
 public:
  explicit WriteLedger(uint64_t bytes_per_day) : bytes_per_day_(bytes_per_day) {}

  // What the file says.
  void begin_with(const WriteNote& note);

  bool is_limited() const { return bytes_per_day_ != kNoWriteLimit; }
  uint64_t left(uint64_t now_us);  // kNoWriteLimit: no limit
  // Less than half a day's budget is left: what could do without should.
  bool is_short(uint64_t now_us) { return is_limited() && left(now_us) < bytes_per_day_ / 2; }

  // Takes it from what is left, or nothing: false.
  bool spend(uint64_t byte_count, uint64_t now_us);
  // What has to be written whatever is left: the index.
  void spend_anyway(uint64_t byte_count, uint64_t now_us);

  uint64_t spent(uint64_t now_us);

 private:
  void recover(uint64_t now_us);

  const uint64_t bytes_per_day_;
  double spent_ = 0;
  uint64_t at_us_ = 0;
};

}  // namespace vkv
