// range_set.h: byte ranges of a file of which something is true.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace vkv {

// Ranges [offset, offset + byte_count). Not thread-safe.
class RangeSet {
 public:
  void add(uint64_t offset, uint64_t byte_count) {
    remove(offset, byte_count);
    if (byte_count > 0) ranges_.emplace(offset, byte_count);
    byte_count_ += byte_count;
  }

  // Parts of ranges that lie in it are gone, their rests stay.
  void remove(uint64_t offset, uint64_t byte_count) {
    const uint64_t end = offset + byte_count;
    for (auto range = first_behind(offset); range != ranges_.end() && range->first < end;) {
      const auto [begin, bytes] = *range;
      range = ranges_.erase(range);
      byte_count_ -= bytes;
      if (begin < offset) put(begin, offset - begin);
      if (begin + bytes > end) put(end, begin + bytes - end);
    }
  }

  // Bytes of [offset, offset + byte_count) that are in the set.
  uint64_t count_in(uint64_t offset, uint64_t byte_count) const {
    const uint64_t end = offset + byte_count;
    uint64_t count = 0;
    for (auto range = first_behind(offset); range != ranges_.end() && range->first < end; ++range)
      count += std::min(end, range->first + range->second) - std::max(offset, range->first);
    return count;
  }

  uint64_t byte_count() const { return byte_count_; }

 private:
  using Ranges = std::map<uint64_t, uint64_t>;  // offset -> bytes; none overlap

  void put(uint64_t offset, uint64_t byte_count) {
    ranges_.emplace(offset, byte_count);
    byte_count_ += byte_count;
  }
  // The first range that ends behind `offset`.
  Ranges::const_iterator first_behind(uint64_t offset) const {
    auto range = ranges_.upper_bound(offset);
    if (range == ranges_.begin()) return range;
    const auto before = std::prev(range);
    return before->first + before->second > offset ? before : range;
  }

  Ranges ranges_;
  uint64_t byte_count_ = 0;
};

}  // namespace vkv
