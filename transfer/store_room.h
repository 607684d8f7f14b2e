// store_room.h: which bytes of a store's file are free, and which of those the disk has promised.
// SPDX-License-Identifier: Apache-2.0
//
// Room that is handed out has disk space behind it, where the file system can promise that: the
// file grows so, and a hole that was given back to the disk is asked for again before it is used.
#pragma once

#include <cstdint>

#include "transfer/file_space.h"
#include "transfer/range_set.h"
#include "transfer/store_file.h"
#include "vkv/status.h"

namespace vkv {

// Offsets and counts are bytes, multiples of kExtentAlignment. Not thread-safe.
class StoreRoom {
 public:
  // All of the file behind the superblocks is free. bytes_max: of the file, to be told in errors
  // and to choose the step of growing by.
  StoreRoom(StoreFile& file, uint64_t bytes_max);

  // Best fit; the file grows up to file_bytes_max where no hole is as large. Errors: kOutOfMemory
  // naming the nvme tier, its budget and the need; kIo when the disk itself is full.
  Result<uint64_t> allocate(uint64_t byte_count, uint64_t file_bytes_max);
  // Just this range, as an index says. Errors: kDataLoss where it is not free.
  Status claim(uint64_t file_offset, uint64_t byte_count);
  void release(uint64_t file_offset, uint64_t byte_count) {
    space_.release(file_offset, byte_count);
  }

  // Of a file that was there before: nobody knows what the disk keeps for its holes.
  void doubt_holes();

  // Gives holes back to the disk, the largest first, until at most kept_bytes of them are left that
  // it keeps space for. Small holes stay. Returns the bytes that were given.
  uint64_t give_back(uint64_t kept_bytes);
  // What a store that goes on may well use again soon: one step of growing.
  uint64_t step_bytes() const { return growth_bytes_; }

  // Gives back what is behind the last range in use. Errors: kIo.
  Status trim();

 private:
  Status grow_for(uint64_t byte_count, uint64_t file_bytes_max);

  StoreFile& file_;
  const uint64_t bytes_max_;
  const uint64_t growth_bytes_;
  FileSpace space_;
  RangeSet unbacked_;  // of the file: ranges that the disk may keep nothing for
  bool can_punch_ = true;
};

}  // namespace vkv
