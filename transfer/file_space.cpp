// file_space.cpp: best fit over two ordered views of the holes.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/file_space.h"

#include <iterator>

#include "runtime/base/block_format.h"
#include "vkv/status.h"

namespace vkv {

std::optional<uint64_t> FileSpace::allocate(uint64_t byte_count) {
  VKV_CHECK(byte_count > 0 && byte_count % kExtentAlignment == 0);
  const auto fit = by_size_.lower_bound({byte_count, 0});
  if (fit == by_size_.end()) return std::nullopt;
  const auto [hole_bytes, offset] = *fit;
  remove_hole(holes_.find(offset));
  if (hole_bytes > byte_count) add_hole(offset + byte_count, hole_bytes - byte_count);
  ranges_.emplace(offset, byte_count);
  return offset;
}

bool FileSpace::claim(uint64_t file_offset, uint64_t byte_count) {
  if (byte_count == 0 || byte_count % kExtentAlignment != 0) return false;
  auto hole = holes_.upper_bound(file_offset);
  if (hole == holes_.begin()) return false;
  --hole;
  const auto [offset, hole_bytes] = *hole;
  const uint64_t before_bytes = file_offset - offset;
  if (before_bytes % kExtentAlignment != 0 || before_bytes >= hole_bytes) return false;
  if (byte_count > hole_bytes - before_bytes) return false;
  remove_hole(hole);
  if (before_bytes > 0) add_hole(offset, before_bytes);
  const uint64_t behind_bytes = hole_bytes - before_bytes - byte_count;
  if (behind_bytes > 0) add_hole(file_offset + byte_count, behind_bytes);
  ranges_.emplace(file_offset, byte_count);
  return true;
}

void FileSpace::release(uint64_t file_offset, uint64_t byte_count) {
  VKV_CHECK(holds(file_offset, byte_count));  // never handed out, or released twice
  ranges_.erase(file_offset);

  uint64_t begin = file_offset, end = file_offset + byte_count;
  const auto after = holes_.lower_bound(file_offset);
  if (after != holes_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == begin) {
      begin = before->first;
      remove_hole(before);
    }
  }
  if (after != holes_.end() && after->first == end) {
    end += after->second;
    remove_hole(after);
  }
  add_hole(begin, end - begin);
}

uint64_t FileSpace::growth_for(uint64_t byte_count) const {
  return hole_bytes_max() >= byte_count ? 0 : byte_count - tail_bytes();
}

uint64_t FileSpace::tail_bytes() const {
  if (holes_.empty()) return 0;
  const auto& [offset, hole_bytes] = *holes_.rbegin();
  return offset + hole_bytes == end_ ? hole_bytes : 0;
}

void FileSpace::extend(uint64_t byte_count) {
  if (byte_count == 0) return;
  VKV_CHECK(byte_count % kExtentAlignment == 0);
  // New room is a range that is handed out and given back at once: release() joins the holes.
  ranges_.emplace(end_, byte_count);
  end_ += byte_count;
  release(end_ - byte_count, byte_count);
}

uint64_t FileSpace::trim() {
  const uint64_t tail = tail_bytes();
  if (tail > 0) remove_hole(std::prev(holes_.end()));
  end_ -= tail;
  return end_;
}

bool FileSpace::holds(uint64_t file_offset, uint64_t byte_count) const {
  const auto range = ranges_.find(file_offset);
  return range != ranges_.end() && range->second == byte_count;
}

void FileSpace::check_invariants() const {
  VKV_CHECK(holes_.size() == by_size_.size());
  uint64_t offset = begin_, hole_bytes_sum = 0;
  bool after_hole = false;
  auto hole = holes_.begin();
  auto range = ranges_.begin();
  while (offset < end_) {
    const bool is_hole = hole != holes_.end() && hole->first == offset;
    VKV_CHECK(is_hole || (range != ranges_.end() && range->first == offset));
    if (is_hole) {
      VKV_CHECK(!after_hole && by_size_.contains({hole->second, offset}));
      hole_bytes_sum += hole->second;
    }
    offset += is_hole ? (hole++)->second : (range++)->second;
    after_hole = is_hole;
  }
  VKV_CHECK(offset == end_ && hole == holes_.end() && range == ranges_.end());
  VKV_CHECK(hole_bytes_sum == free_bytes_);
}

void FileSpace::add_hole(uint64_t offset, uint64_t byte_count) {
  holes_.emplace(offset, byte_count);
  by_size_.emplace(byte_count, offset);
  free_bytes_ += byte_count;
}

void FileSpace::remove_hole(std::map<uint64_t, uint64_t>::iterator hole) {
  by_size_.erase({hole->second, hole->first});
  free_bytes_ -= hole->second;
  holes_.erase(hole);
}

}  // namespace vkv
