// block_store.cpp: room, tickets, checksums and errors over a file and an engine.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/block_store.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/base/block_format.h"
#include "transfer/crc32c.h"
#include "transfer/file_space.h"
#include "transfer/io_engine.h"
#include "transfer/memory_pool.h"
#include "transfer/store_file.h"

namespace vkv {
namespace {

constexpr uint64_t kStoreBytesMin = uint64_t{1} << 20;
constexpr uint64_t kInFlightMax = 4096;

// The file grows by so much at a time, so that it lies in few pieces on the disk; small files by an
// eighth of their cap.
constexpr uint64_t kSegmentBytesMax = uint64_t{64} << 20;

uint64_t segment_bytes_for(uint64_t bytes_max) {
  uint64_t segment_bytes = kSegmentBytesMax;
  while (segment_bytes > bytes_max / 8) segment_bytes /= 2;
  return std::max(segment_bytes, uint64_t{kExtentAlignment});
}

// VKV_IO decides where the options leave it open, so that CI can run everything on each engine.
Result<IoBackend> resolve(IoBackend asked) {
  const char* const forced = std::getenv("VKV_IO");
  if (asked != IoBackend::kAuto || forced == nullptr || *forced == '\0') return asked;
  const std::string_view name = forced;
  if (name == "uring") return IoBackend::kUring;
  if (name == "threads") return IoBackend::kThreads;
  return Status(Code::kInvalidArgument,
                "VKV_IO is '" + std::string(name) + "'; there are: uring threads");
}

class FileStore final : public BlockStore {
 public:
  FileStore(const BlockStoreOptions& options, std::unique_ptr<StoreFile> file,
            std::unique_ptr<IoEngine> engine, bool is_direct)
      : bytes_max_(options.bytes_max / kExtentAlignment * kExtentAlignment),
        segment_bytes_(segment_bytes_for(bytes_max_)),
        name_(std::string(engine->name()) + (is_direct ? "" : " (buffered)")),
        file_(std::move(file)),
        engine_(std::move(engine)),
        space_(file_->bytes()) {}

  ~FileStore() override {
    for (auto& [ticket, operation] : operations_) engine_->wait(operation->request);
  }

  Result<StoreExtent> reserve(uint64_t byte_count) override;
  void release(const StoreExtent& extent) override;
  Result<IoTicket> submit_write(StoreExtent& extent, std::span<const std::byte> source) override;
  Result<IoTicket> submit_read(const StoreExtent& extent, std::span<std::byte> target) override;
  Status wait(IoTicket ticket) override;
  bool ready(IoTicket ticket) override;
  std::string_view io_engine() const override { return name_; }
  BlockStoreStats stats() const override;

 private:
  struct Operation {
    IoRequest request;
    uint32_t crc32c = 0;
    bool is_waited_for = false;
  };

  Status make_room(uint64_t byte_count);
  Result<IoTicket> submit(const StoreExtent& extent, IoRequest::Kind kind, std::byte* data,
                          size_t byte_count);
  Status outcome(const Operation& operation) const;

  const uint64_t bytes_max_;
  const uint64_t segment_bytes_;
  const std::string name_;
  const std::unique_ptr<StoreFile> file_;
  const std::unique_ptr<IoEngine> engine_;  // destroyed before the file is closed

  mutable std::mutex mutex_;  // of all below, and of the file's length
  FileSpace space_;
  uint64_t next_ticket_ = 1;
  std::unordered_map<uint64_t, std::unique_ptr<Operation>> operations_;
  BlockStoreStats stats_;
};

Result<StoreExtent> FileStore::reserve(uint64_t byte_count) {
  if (byte_count == 0) return Status(Code::kInvalidArgument, "nvme tier: 0 bytes asked for");
  if (byte_count <= bytes_max_) byte_count = round_up_bytes(byte_count, kExtentAlignment);

  const std::lock_guard lock(mutex_);
  VKV_TRY(make_room(byte_count));
  const std::optional<uint64_t> offset = space_.allocate(byte_count);
  VKV_CHECK(offset.has_value());
  stats_.bytes_reserved = space_.used_bytes();
  stats_.bytes_peak = std::max(stats_.bytes_peak, stats_.bytes_reserved);
  return StoreExtent{.file_offset = *offset, .byte_count = byte_count};
}

// Grows the file until a hole takes byte_count bytes. Lock held.
Status FileStore::make_room(uint64_t byte_count) {
  const uint64_t room_bytes = bytes_max_ - space_.end();
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

  uint64_t growth_bytes = std::min(round_up_bytes(needed_bytes, segment_bytes_), room_bytes);
  Status status = file_->grow(growth_bytes);
  // On a disk that is nearly full, a smaller step may still do.
  while (!status.ok() && growth_bytes > needed_bytes) {
    growth_bytes = std::max(growth_bytes / 2 / kExtentAlignment * kExtentAlignment, needed_bytes);
    status = file_->grow(growth_bytes);
  }
  VKV_TRY(status);
  space_.extend(growth_bytes);
  return {};
}

void FileStore::release(const StoreExtent& extent) {
  const std::lock_guard lock(mutex_);
  for (const auto& [ticket, operation] : operations_) {
    VKV_CHECK(operation->request.file_offset != extent.file_offset);  // in flight on it
  }
  space_.release(extent.file_offset, extent.byte_count);
  stats_.bytes_reserved = space_.used_bytes();
}

Result<IoTicket> FileStore::submit_write(StoreExtent& extent, std::span<const std::byte> source) {
  VKV_CHECK(source.size() == extent.byte_count);
  extent.crc32c = crc32c(source);
  // The engine reads from it only.
  return submit(extent, IoRequest::Kind::kWrite, const_cast<std::byte*>(source.data()),
                source.size());
}

Result<IoTicket> FileStore::submit_read(const StoreExtent& extent, std::span<std::byte> target) {
  return submit(extent, IoRequest::Kind::kRead, target.data(), target.size());
}

Result<IoTicket> FileStore::submit(const StoreExtent& extent, IoRequest::Kind kind, std::byte* data,
                                   size_t byte_count) {
  VKV_CHECK(byte_count == extent.byte_count);
  VKV_CHECK(reinterpret_cast<uintptr_t>(data) % kExtentAlignment == 0);
  auto owned = std::make_unique<Operation>();
  Operation& operation = *owned;
  operation.request = {
      .kind = kind, .file_offset = extent.file_offset, .data = data, .byte_count = byte_count};
  operation.crc32c = extent.crc32c;

  uint64_t ticket = 0;
  {
    const std::lock_guard lock(mutex_);
    VKV_CHECK(space_.holds(extent.file_offset, extent.byte_count));  // not reserved, or released
    ticket = next_ticket_++;
    operations_.emplace(ticket, std::move(owned));
  }
  // Outside the lock: it may have to wait for room in the queue, and others must be able to finish.
  engine_->submit(operation.request);
  return static_cast<IoTicket>(ticket);
}

Status FileStore::wait(IoTicket ticket) {
  Operation* operation = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = operations_.find(static_cast<uint64_t>(ticket));
    VKV_CHECK(found != operations_.end());  // never given out, or finished before
    operation = found->second.get();
    VKV_CHECK(!operation->is_waited_for);  // by another thread
    operation->is_waited_for = true;
  }
  engine_->wait(operation->request);
  Status status = outcome(*operation);

  const std::lock_guard lock(mutex_);
  const IoRequest& request = operation->request;
  const bool is_read = request.kind == IoRequest::Kind::kRead;
  ++(is_read ? stats_.read_count : stats_.write_count);
  (is_read ? stats_.read_bytes : stats_.written_bytes) += request.bytes_done;
  operations_.erase(static_cast<uint64_t>(ticket));
  return status;
}

Status FileStore::outcome(const Operation& operation) const {
  const IoRequest& request = operation.request;
  const bool is_read = request.kind == IoRequest::Kind::kRead;
  const std::string where = std::to_string(request.byte_count) + " bytes at offset " +
                            std::to_string(request.file_offset) + " of";
  if (request.error != 0) {
    return file_error((is_read ? "read " : "write ") + where, file_->path(), request.error,
                      is_read ? 0 : request.byte_count - request.bytes_done);
  }
  if (request.bytes_done < request.byte_count) {
    return {Code::kDataLoss, "the store is truncated: it ends within the " + where + " '" +
                                 file_->path() + "'; another program has changed it"};
  }
  if (!is_read) return {};
  const uint32_t found = crc32c({request.data, request.byte_count});
  if (found == operation.crc32c) return {};
  char sums[64];
  std::snprintf(sums, sizeof(sums), "%08x, written was %08x", found, operation.crc32c);
  return {Code::kDataLoss,
          "the store is damaged: the checksum of " + where + " '" + file_->path() + "' is " + sums};
}

bool FileStore::ready(IoTicket ticket) {
  const std::lock_guard lock(mutex_);
  const auto found = operations_.find(static_cast<uint64_t>(ticket));
  VKV_CHECK(found != operations_.end());
  return engine_->done(found->second->request);
}

BlockStoreStats FileStore::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

// Whether the engine really moves bytes here: reads the superblock, writes it back, reads it again.
// A container may allow io_uring_setup and refuse the rest; a file system may take O_DIRECT and
// then fail, or ask for a wider alignment.
Status probe(IoEngine& engine, const std::string& path) {
  MemoryPool pool(kSuperblockBytes);
  VKV_TRY_ASSIGN(buffer, pool.allocate(kSuperblockBytes, "probing the store"));
  for (const auto kind :
       {IoRequest::Kind::kRead, IoRequest::Kind::kWrite, IoRequest::Kind::kRead}) {
    IoRequest request{.kind = kind, .data = buffer.data(), .byte_count = kSuperblockBytes};
    engine.submit(request);
    engine.wait(request);
    if (request.error != 0) return file_error("probe", path, request.error);
    if (request.bytes_done != kSuperblockBytes ||
        std::memcmp(buffer.data(), kStoreMagic.data(), kStoreMagic.size()) != 0) {
      return {Code::kIo, "cannot probe '" + path + "': what was written does not come back"};
    }
  }
  return {};
}

Result<std::unique_ptr<IoEngine>> make_engine(IoBackend backend, const IoEngineOptions& options,
                                              const std::string& path) {
  auto engine =
      backend == IoBackend::kUring ? make_uring_engine(options) : make_thread_engine(options);
  if (!engine.ok()) return engine.status();
  VKV_TRY(probe(*engine.value(), path));
  return engine;
}

}  // namespace

Result<std::unique_ptr<BlockStore>> BlockStore::open(const BlockStoreOptions& options) {
  if (options.path.empty()) {
    return Status(Code::kInvalidArgument, "the NVMe tier needs a store path; it is empty");
  }
  if (options.bytes_max < kStoreBytesMin || options.bytes_max > uint64_t{1} << 62) {
    return Status(Code::kInvalidArgument,
                  "the NVMe budget is " + std::to_string(options.bytes_max) +
                      " bytes; it must be " + std::to_string(kStoreBytesMin) + " or more" +
                      " (and less than 2^62)");
  }
  if (options.in_flight_max < 1 || options.in_flight_max > kInFlightMax) {
    return Status(Code::kInvalidArgument, "in_flight_max is " +
                                              std::to_string(options.in_flight_max) +
                                              "; it may be 1 to " + std::to_string(kInFlightMax));
  }
  VKV_TRY_ASSIGN(backend, resolve(options.io));
  // So that a change of the working directory does not keep it from being removed.
  std::error_code unused;
  const std::string path = std::filesystem::absolute(options.path, unused).string();
  VKV_TRY_ASSIGN(file, StoreFile::open(path));

  // The best first: direct before buffered, and io_uring before threads where the choice is ours.
  const IoEngineOptions engine_options{.file = file->file(),
                                       .in_flight_max = options.in_flight_max};
  std::vector<IoBackend> backends = {backend};
  if (backend == IoBackend::kAuto) backends = {IoBackend::kUring, IoBackend::kThreads};
  Status status;
  for (const bool is_direct : {true, false}) {
    if (!file->set_direct(is_direct)) continue;
    for (const IoBackend candidate : backends) {
      auto engine = make_engine(candidate, engine_options, path);
      if (engine.ok()) {
        return std::unique_ptr<BlockStore>(std::make_unique<FileStore>(
            options, std::move(file), std::move(engine.value()), is_direct));
      }
      status = engine.status();
    }
  }
  return status;
}

}  // namespace vkv
