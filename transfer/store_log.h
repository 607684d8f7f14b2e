// store_log.h: the index and the superblock in the file: commits that last.
// SPDX-License-Identifier: Apache-2.0
//
// A commit: 1. sync, so that the extents it names are on the disk; 2. write the pages of the batch;
// 3. sync. Only then does it count. When the chain has become much longer than what it says, a new
// one is written beside it, and the superblock, both copies one after the other, names that.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "transfer/io_engine.h"
#include "transfer/memory_pool.h"
#include "transfer/store_index.h"
#include "vkv/status.h"

namespace vkv {

// Not thread-safe, but for the room it asks for.
class StoreLog {
 public:
  // Where the store has kIndexSegmentBytes to spare.
  using Reserve = std::function<Result<uint64_t>()>;
  using Release = std::function<void(uint64_t file_offset)>;
  struct Room {
    Reserve reserve;
    Release release;
  };

  // `path` is for messages. The engine outlives it.
  StoreLog(IoEngine& engine, std::string path, Superblock superblock, IndexTail tail, Room room);

  // Makes `batch` last; `after` is what the store holds then. After an error the log cannot be
  // used. Errors: kIo; kOutOfMemory where there is no room for the index, and then all is as it
  // was.
  Status commit(const IndexBatch& batch, const StoredSequences& after);

  // The superblock for a process that has just opened the store, and for one that closes it.
  Status mark_open(uint32_t process);
  Status mark_closed();

  const Status& failure() const { return failure_; }
  uint64_t segment_count() const { return tail_.segments.size(); }
  uint64_t written_bytes() const { return written_bytes_; }

 private:
  Status append(const IndexBatch& batch);
  Status rewrite(const StoredSequences& all);
  Result<std::vector<uint64_t>> reserve(uint64_t segments);
  Status write_pages(const std::vector<PageWrite>& pages);
  Status write_superblock();
  Status write(uint64_t file_offset, uint64_t byte_count);
  Status sync();

  IoEngine& engine_;
  const std::string path_;
  const Room room_;
  Superblock superblock_;
  IndexTail tail_;
  Status failure_;
  uint64_t written_bytes_ = 0;
  MemoryPool pool_{UINT64_MAX};
  MemoryBuffer buffer_;  // what is being written
};

}  // namespace vkv
