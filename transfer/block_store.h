// block_store.h: extents of records in a file: the NVMe tier.
// SPDX-License-Identifier: Apache-2.0
//
// The store moves bytes and decides nothing. Reads and writes are asynchronous: submit_… hands them
// to the kernel (io_uring with O_DIRECT) or to a small pool of threads (pread, pwrite), wait()
// finishes one. Every extent carries a CRC-32C that wait() checks after a read.
//
// In this version the file lives as long as the store: it is removed at close.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct BlockStoreOptions {
  std::string path;        // created; must not exist unless it is an abandoned store file
  uint64_t bytes_max = 0;  // hard cap of the file, bytes on disk
  IoBackend io = IoBackend::kAuto;
  uint32_t in_flight_max = 64;  // operations the kernel or the pool holds at once
};

// Room in the file, and what was written there.
struct StoreExtent {
  uint64_t file_offset = 0;  // a multiple of kExtentAlignment
  uint64_t byte_count = 0;   // a multiple of kExtentAlignment
  uint32_t crc32c = 0;       // of the bytes; set by submit_write
};

enum class IoTicket : uint64_t { kNone = 0 };

struct BlockStoreStats {
  uint64_t bytes_reserved = 0;
  uint64_t bytes_peak = 0;
  uint64_t read_count = 0, read_bytes = 0;
  uint64_t write_count = 0, written_bytes = 0;
};

// Thread-safe. Buffers are 4096-aligned and belong to the store from submit to wait.
class BlockStore {
 public:
  // Errors: kIo with errno and the path (not writable, no space, no O_DIRECT and no fallback),
  // kInvalidArgument for a file that exists and is not an abandoned store, or is in use, and for a
  // budget below 1 MiB; kUnsupported where io_uring is asked for and refused by the system.
  static Result<std::unique_ptr<BlockStore>> open(const BlockStoreOptions& options);
  virtual ~BlockStore() = default;  // drains what is in flight, then removes the file

  // Room for byte_count bytes, rounded up to kExtentAlignment. Errors: kOutOfMemory naming the nvme
  // tier, its budget and the need; kIo when the disk itself is full.
  virtual Result<StoreExtent> reserve(uint64_t byte_count) = 0;
  virtual void release(const StoreExtent& extent) = 0;  // nothing may be in flight on it

  // source and target are as long as the extent. Errors: none now; what goes wrong, wait() says.
  // Blocks while in_flight_max operations are under way.
  virtual Result<IoTicket> submit_write(StoreExtent& extent, std::span<const std::byte> source) = 0;
  virtual Result<IoTicket> submit_read(const StoreExtent& extent, std::span<std::byte> target) = 0;

  // Finishes one operation, exactly once a ticket; afterwards its buffer is the caller's again,
  // also when it failed. Errors: kIo with errno, kDataLoss when a checksum does not match
  // or the file is truncated.
  virtual Status wait(IoTicket ticket) = 0;

  // True if wait() would not block. Does not finish the operation.
  virtual bool ready(IoTicket ticket) = 0;

  virtual std::string_view io_engine() const = 0;  // "io_uring", "threads"; "… (buffered)"
  virtual BlockStoreStats stats() const = 0;
};

}  // namespace vkv
