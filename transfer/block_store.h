// block_store.h: extents of records in a file: the NVMe tier.
// SPDX-License-Identifier: Apache-2.0
//
// The store moves bytes and decides nothing. Reads and writes are asynchronous: submit_… hands them
// to the kernel (io_uring with O_DIRECT) or to a small pool of threads (pread, pwrite), wait()
// finishes one. Every extent carries a CRC-32C that wait() checks after a read.
//
// An extent belongs to whoever reserved it until release(). Where the file is kept, commit() makes
// a set of them a sequence that outlives the process: see transfer/README.md for what it promises.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transfer/io_engine.h"
#include "transfer/io_queue.h"
#include "transfer/store_file.h"
#include "transfer/store_format.h"
#include "transfer/write_ledger.h"
#include "vkv/options.h"
#include "vkv/saved.h"
#include "vkv/status.h"

namespace vkv {

struct BlockStoreOptions {
  std::string path;  // created; where it exists, `use` says what becomes of it
  StoreUse use = StoreUse::kTemporary;
  uint64_t bytes_max = 0;  // hard cap of the file, bytes on disk; not for kReadOnly
  uint64_t write_bytes_per_day = kNoWriteLimit;  // see write_ledger.h
  IoBackend io = IoBackend::kAuto;
  uint32_t in_flight_max = 32;  // operations the kernel or the pool holds at once
  // For tests: stands between the store and its engine.
  std::function<std::unique_ptr<IoEngine>(std::unique_ptr<IoEngine>)> around_engine;
};

// Room in the file, and what was written there.
struct StoreExtent {
  uint64_t file_offset = 0;  // a multiple of kExtentAlignment
  uint64_t byte_count = 0;   // a multiple of kExtentAlignment
  uint32_t crc32c = 0;       // of the bytes; set by submit_write
};

// What a listing says of an extent.
struct ExtentLabel {
  StoredKind kind = StoredKind::kState;
  Codec k_codec = Codec::kF16;
  Codec v_codec = Codec::kF16;
  uint32_t layer = 0;
  uint32_t block_count = 0;
  uint32_t token_count = 0;
};

struct LabelledExtent {
  StoreExtent extent;
  ExtentLabel label;
};

// What to commit, and what hold() finds.
struct CommittedSequence {
  SequenceKey key;
  uint32_t token_count = 0;
  uint32_t generation = 0;  // see StoredSequence
  std::vector<LabelledExtent> extents;
};

enum class IoTicket : uint64_t { kNone = 0 };

struct BlockStoreStats {
  uint64_t bytes_reserved = 0;  // of extents
  uint64_t bytes_peak = 0;
  uint64_t bytes_committed = 0;   // of bytes_reserved: of sequences that outlive the process
  uint64_t index_bytes = 0;       // superblock and index
  uint64_t file_bytes = 0;        // its length
  uint64_t disk_bytes = 0;        // that the disk keeps for it
  uint64_t given_back_bytes = 0;  // of holes, to the disk
  uint64_t read_count = 0, read_bytes = 0;
  uint64_t write_count = 0, written_bytes = 0;  // of extents
  uint64_t payload_bytes = 0;        // of written_bytes, what was asked for: not what rounds it up
  uint64_t index_written_bytes = 0;  // superblocks too
  uint64_t commit_count = 0;         // since open
  uint64_t cancelled_count = 0;      // operations that never began
  uint64_t late_count = 0;           // operations that began behind their deadline
  uint64_t write_bytes_left = kNoWriteLimit;  // of the budget, now
  // Of the file, by all who ever wrote to it; 0 where the file system keeps no attributes.
  uint64_t life_payload_bytes = 0, life_written_bytes = 0;
};

// Thread-safe. Buffers are 4096-aligned and belong to the store from submit to wait.
class BlockStore {
 public:
  // Errors: kIo with errno and the path (not writable, no space, no O_DIRECT and no fallback),
  // kInvalidArgument for a file that is none of ours, is of another use, or is in use, and for a
  // budget below 1 MiB; kDataLoss for a store whose superblock or index is damaged; kNotFound where
  // there is nothing to read; kUnsupported where io_uring is asked for and refused by the system.
  static Result<std::unique_ptr<BlockStore>> open(const BlockStoreOptions& options);
  // Drains what is in flight. Removes a temporary file; a kept one has its committed sequences.
  virtual ~BlockStore() = default;

  // Memory that reads and writes will use most, and that outlives the store's last operation. At
  // most once, before anything is submitted.
  virtual void register_memory(std::span<const std::span<std::byte>> regions) = 0;

  // Room for byte_count bytes of payload, rounded up to kExtentAlignment. Errors: kOutOfMemory
  // naming the nvme tier, its budget and the need; kIo when the disk itself is full.
  virtual Result<StoreExtent> reserve(uint64_t byte_count) = 0;
  // The caller has nothing in flight on it. Its room is free when nobody else holds it and no
  // committed sequence has it.
  virtual void release(const StoreExtent& extent) = 0;

  // source and target are as long as the extent; it is written once. Errors: kOutOfMemory for a
  // write that is more than the write budget has left; what else goes wrong, wait() says.
  // Operations beyond in_flight_max wait in a queue; what somebody waits for begins at once. Any
  // call into the store moves the queue on.
  virtual Result<IoTicket> submit_write(StoreExtent& extent, std::span<const std::byte> source,
                                        IoPriority priority = IoPriority::kWriteBack) = 0;
  virtual Result<IoTicket> submit_read(const StoreExtent& extent, std::span<std::byte> target,
                                       IoPriority priority = IoPriority::kNow,
                                       IoDeadline deadline = kNoDeadline) = 0;

  // Finishes one operation, exactly once a ticket; afterwards its buffer is the caller's again,
  // also when it failed. Errors: kIo with errno, kDataLoss when a checksum does not match
  // or the file is truncated.
  virtual Status wait(IoTicket ticket) = 0;

  // Like wait(), for who does not want the result any more: an operation that has not begun never
  // does. One that the kernel has is waited for, as the kernel has the buffer too.
  virtual void cancel(IoTicket ticket) = 0;

  // True if wait() would not block. Does not finish the operation.
  virtual bool ready(IoTicket ticket) = 0;

  // Keeps the extents, all written and waited for, under the key; a sequence that had it before is
  // gone. The caller goes on holding what it holds. When it returns ok, the sequence survives the
  // end of the process and a power failure; when it fails, it may or may not be there. Errors:
  // kUnsupported where the file is not kept; kOutOfMemory, kIo.
  virtual Status commit(const CommittedSequence& sequence) = 0;
  // Errors: kNotFound; as commit().
  virtual Status erase(const SequenceKey& key) = 0;
  // Takes hold of the sequence's extents: the caller releases each. Errors: kNotFound.
  virtual Result<CommittedSequence> hold(const SequenceKey& key) = 0;
  // Once more, of an extent that the caller holds.
  virtual void hold(const StoreExtent& extent) = 0;
  // By key.
  virtual std::vector<StoredSequence> committed() const = 0;

  // Less than half of a day's write budget is left: what could do without writing should.
  virtual bool writes_are_short() = 0;

  // Not ok after an index or a sync could not be written: nothing more is written then, as what
  // the disk has is not known; reads go on. With kReadOnly also what is wrong with the index.
  virtual Status health() const = 0;

  virtual const Superblock& superblock() const = 0;  // as found at open
  virtual std::string_view io_engine() const = 0;    // "io_uring", "threads"; "… (buffered)"
  virtual BlockStoreStats stats() const = 0;
};

}  // namespace vkv
