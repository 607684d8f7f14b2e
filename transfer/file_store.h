// file_store.h: the one implementation of BlockStore: a file, an engine, and what lies where.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "transfer/block_store.h"
#include "transfer/io_engine.h"
#include "transfer/io_queue.h"
#include "transfer/store_file.h"
#include "transfer/store_index.h"
#include "transfer/store_log.h"
#include "transfer/store_room.h"
#include "vkv/status.h"

namespace vkv {

class FileStore final : public BlockStore {
 public:
  // is_direct: the engine bypasses the page cache.
  FileStore(const BlockStoreOptions& options, std::unique_ptr<StoreFile> file,
            std::unique_ptr<IoEngine> engine, bool is_direct);
  ~FileStore() override;

  // Reads the index of a file that was kept, and marks it as open. Errors: kDataLoss, kIo.
  Status recover();

  void register_memory(std::span<const std::span<std::byte>> regions) override;
  Result<StoreExtent> reserve(uint64_t byte_count) override;
  void release(const StoreExtent& extent) override;
  Result<IoTicket> submit_write(StoreExtent& extent, std::span<const std::byte> source,
                                IoPriority priority) override;
  Result<IoTicket> submit_read(const StoreExtent& extent, std::span<std::byte> target,
                               IoPriority priority, IoDeadline deadline) override;
  Status wait(IoTicket ticket) override;
  void cancel(IoTicket ticket) override;
  bool ready(IoTicket ticket) override;
  Status commit(const CommittedSequence& sequence) override;
  Status erase(const SequenceKey& key) override;
  Result<CommittedSequence> hold(const SequenceKey& key) override;
  void hold(const StoreExtent& extent) override;
  std::vector<StoredSequence> committed() const override;
  bool writes_are_short() override;
  Status health() const override;
  const Superblock& superblock() const override { return file_->superblock(); }
  std::string_view io_engine() const override { return name_; }
  BlockStoreStats stats() const override;

 private:
  // An extent that somebody holds, or that committed sequences have.
  struct Stored {
    uint64_t byte_count = 0;
    uint64_t payload_bytes = 0;
    uint32_t crc32c = 0;
    uint32_t hold_count = 0;
    uint32_t commit_count = 0;     // sequences
    uint32_t in_flight_count = 0;  // operations
    bool is_written = false;
  };
  struct Operation {
    QueuedRequest queued;
    uint32_t crc32c = 0;
    bool is_waited_for = false;
  };

  bool is_kept() const { return options_.use == StoreUse::kKeep; }
  // All of these: mutex_ held.
  Result<uint64_t> allocate(uint64_t byte_count, uint64_t bytes_max);
  WriteNote writes_of_life() const;
  void count_index_writes();
  void note_writes();
  void free_if_unused(std::map<uint64_t, Stored>::iterator stored);
  Status adopt(const StoredSequence& sequence);
  Result<StoredSequence> described(const CommittedSequence& sequence) const;

  Operation& operation_of(IoTicket ticket);
  void forget(IoTicket ticket);

  Result<IoTicket> submit(const StoreExtent& extent, const QueuedRequest& queued);
  Status transferred(const IoRequest& request) const;
  Status outcome(const Operation& operation) const;
  Status commit_batch(const IndexBatch& batch);  // commit_mutex_ held
  StoreLog::Room room_for_index();

  const BlockStoreOptions options_;
  const uint64_t bytes_max_;
  const uint64_t extent_bytes_max_;  // of bytes_max_, what extents may fill
  const std::string name_;
  const std::unique_ptr<StoreFile> file_;
  const std::unique_ptr<IoEngine> engine_;  // destroyed before the file is closed
  IoQueue queue_;

  std::mutex commit_mutex_;  // before mutex_; of the log
  std::unique_ptr<StoreLog> log_;

  mutable std::mutex mutex_;  // of all below, and of the file's length
  StoreRoom room_;
  std::map<uint64_t, Stored> extents_;  // by offset
  StoredSequences sequences_;
  Status index_health_;
  uint64_t index_segment_count_ = 0;
  uint64_t next_ticket_ = 1;
  std::unordered_map<uint64_t, std::unique_ptr<Operation>> operations_;
  BlockStoreStats stats_;
  mutable WriteLedger ledger_;
  WriteNote life_before_;     // of the file, before this process
  uint64_t noted_bytes_ = 0;  // of what this process wrote, in the file's note
};

}  // namespace vkv
