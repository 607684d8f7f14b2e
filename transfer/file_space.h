// file_space.h: which ranges of a file are free.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace vkv {

// Best fit, the lowest offset among equals; neighbouring holes are one hole. Offsets and counts are
// bytes, all multiples of kExtentAlignment. Only arithmetic: the file is its owner's affair.
// Not thread-safe.
class FileSpace {
 public:
  // Ranges lie in [begin_offset, end()); it is empty until extend().
  explicit FileSpace(uint64_t begin_offset) : begin_(begin_offset), end_(begin_offset) {}

  // The offset of byte_count bytes that nobody else has; nothing where no hole is as large.
  std::optional<uint64_t> allocate(uint64_t byte_count);

  // Takes just this range, as a file that was there before says. False where it is not all free.
  bool claim(uint64_t file_offset, uint64_t byte_count);

  // Takes back exactly what allocate() or claim() gave.
  void release(uint64_t file_offset, uint64_t byte_count);

  // Bytes by which the end must move up so that allocate(byte_count) succeeds.
  uint64_t growth_for(uint64_t byte_count) const;
  void extend(uint64_t byte_count);
  // Moves the end down to the last range; returns it.
  uint64_t trim();

  // Whether allocate() gave this range and nobody released it.
  bool holds(uint64_t file_offset, uint64_t byte_count) const;

  uint64_t end() const { return end_; }
  uint64_t free_bytes() const { return free_bytes_; }
  uint64_t used_bytes() const { return end_ - begin_ - free_bytes_; }
  uint64_t hole_bytes_max() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }
  uint64_t tail_bytes() const;  // of the hole that touches the end
  size_t hole_count() const { return holes_.size(); }
  const std::map<uint64_t, uint64_t>& holes() const { return holes_; }  // offset -> bytes

  // Stops the process where a hole or a range overlaps another, or two holes touch. O(ranges).
  void check_invariants() const;

 private:
  void add_hole(uint64_t offset, uint64_t byte_count);
  void remove_hole(std::map<uint64_t, uint64_t>::iterator hole);

  const uint64_t begin_;
  uint64_t end_;
  uint64_t free_bytes_ = 0;
  std::map<uint64_t, uint64_t> holes_;               // offset -> bytes
  std::set<std::pair<uint64_t, uint64_t>> by_size_;  // the same holes as (bytes, offset)
  std::map<uint64_t, uint64_t> ranges_;              // handed out: offset -> bytes
};

}  // namespace vkv
