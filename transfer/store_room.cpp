// store_room.cpp: growing, giving back, and asking again.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/store_room.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/block_format.h"

namespace vkv {
namespace {

// The file grows by so much at a time, so that it lies in few pieces on the disk; small files by an
// eighth of their cap.
constexpr uint64_t kGrowthBytesMax = uint64_t{64} << 20;

// Smaller holes are not worth a call, nor the pieces that the file would lie in.
constexpr uint64_t kGiveBackBytesMin = uint64_t{256} << 10;

uint64_t growth_bytes_for(uint64_t bytes_max) {
  uint64_t growth_bytes = kGrowthBytesMax;
  while (growth_bytes > bytes_max / 8) growth_bytes /= 2;
  return std::max(growth_bytes, uint64_t{kExtentAlignment});
}

}  // namespace

StoreRoom::StoreRoom(StoreFile& file, uint64_t bytes_max)
    : file_(file),
      bytes_max_(bytes_max),
      growth_bytes_(growth_bytes_for(bytes_max)),
      space_(kExtentsBegin) {
  space_.extend(file.bytes() - std::min(file.bytes(), kExtentsBegin));
}

Result<uint64_t> StoreRoom::allocate(uint64_t byte_count, uint64_t file_bytes_max) {
  VKV_TRY(grow_for(byte_count, file_bytes_max));
  const std::optional<uint64_t> offset = space_.allocate(byte_count);
  VKV_CHECK(offset.has_value());
  if (unbacked_.count_in(*offset, byte_count) == 0) return *offset;
  const Status backed = file_.back(*offset, byte_count);
  if (!backed.ok()) {
    space_.release(*offset, byte_count);
    return backed;
  }
  unbacked_.remove(*offset, byte_count);
  return *offset;
}

Status StoreRoom::grow_for(uint64_t byte_count, uint64_t file_bytes_max) {
  const uint64_t room_bytes = file_bytes_max - std::min(file_bytes_max, space_.end());
  const uint64_t needed_bytes = space_.growth_for(byte_count);
  if (needed_bytes > room_bytes) {
    const uint64_t largest = std::max(space_.hole_bytes_max(), space_.tail_bytes() + room_bytes);
    return {Code::kOutOfMemory, "nvme tier: " + std::to_string(byte_count) + " bytes asked for, " +
                                    std::to_string(space_.used_bytes()) +
                                    " in use, the budget is " + std::to_string(bytes_max_) +
                                    ", the largest free range " + std::to_string(largest) +
                                    "; raise the NVMe budget or use less"};
  }
  if (needed_bytes == 0) return {};

  uint64_t growth_bytes = std::min(round_up_bytes(needed_bytes, growth_bytes_), room_bytes);
  Status status = file_.grow(growth_bytes);
  // On a disk that is nearly full, a smaller step may still do.
  while (!status.ok() && growth_bytes > needed_bytes) {
    growth_bytes = std::max(growth_bytes / 2 / kExtentAlignment * kExtentAlignment, needed_bytes);
    status = file_.grow(growth_bytes);
  }
  VKV_TRY(status);
  space_.extend(growth_bytes);
  return {};
}

Status StoreRoom::claim(uint64_t file_offset, uint64_t byte_count) {
  if (space_.claim(file_offset, byte_count)) return {};
  const bool is_truncated = file_offset + byte_count > space_.end();
  return {Code::kDataLoss, "the store '" + file_.path() + "' is " +
                               (is_truncated ? "truncated: it ends before the "
                                             : "damaged: its index has two uses for the ") +
                               std::to_string(byte_count) + " bytes at offset " +
                               std::to_string(file_offset)};
}

void StoreRoom::doubt_holes() {
  for (const auto& [offset, byte_count] : space_.holes()) unbacked_.add(offset, byte_count);
}

uint64_t StoreRoom::give_back(uint64_t kept_bytes) {
  uint64_t backed = 0;
  std::vector<std::pair<uint64_t, uint64_t>> holes;  // bytes that the disk keeps, offset
  for (const auto& [offset, byte_count] : space_.holes()) {
    const uint64_t own = byte_count - unbacked_.count_in(offset, byte_count);
    backed += own;
    if (own >= kGiveBackBytesMin) holes.emplace_back(own, offset);
  }
  std::sort(holes.rbegin(), holes.rend());
  uint64_t given = 0;
  for (const auto& [own, offset] : holes) {
    if (backed <= kept_bytes || !can_punch_) break;
    const uint64_t byte_count = space_.holes().at(offset);
    can_punch_ = file_.punch(offset, byte_count);
    if (!can_punch_) break;
    unbacked_.add(offset, byte_count);
    backed -= own;
    given += own;
  }
  return given;
}

Status StoreRoom::trim() {
  const uint64_t end = space_.trim();
  unbacked_.remove(end, file_.bytes() - std::min(file_.bytes(), end));
  return file_.shrink(end);
}

}  // namespace vkv
