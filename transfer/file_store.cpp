// file_store.cpp: room, tickets, checksums, commits and errors over a file and an engine.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/file_store.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <set>
#include <utility>

#include "runtime/base/block_format.h"
#include "transfer/crc32c.h"
#include "transfer/memory_pool.h"

namespace vkv {
namespace {

// The file grows by so much at a time, so that it lies in few pieces on the disk; small files by an
// eighth of their cap.
constexpr uint64_t kGrowthBytesMax = uint64_t{64} << 20;

// Kept free of extents, so that a store that is full can still write its index anew: erase() works.
constexpr uint64_t kIndexSpareBytes = 2 * kIndexSegmentBytes;

uint64_t growth_bytes_for(uint64_t bytes_max) {
  uint64_t growth_bytes = kGrowthBytesMax;
  while (growth_bytes > bytes_max / 8) growth_bytes /= 2;
  return std::max(growth_bytes, uint64_t{kExtentAlignment});
}

uint64_t now_seconds() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

}  // namespace

FileStore::FileStore(const BlockStoreOptions& options, std::unique_ptr<StoreFile> file,
                     std::unique_ptr<IoEngine> engine, bool is_direct)
    : options_(options),
      bytes_max_(options.bytes_max / kExtentAlignment * kExtentAlignment),
      extent_bytes_max_(is_kept() ? bytes_max_ - kIndexSpareBytes : bytes_max_),
      growth_bytes_(growth_bytes_for(bytes_max_)),
      name_(std::string(engine->name()) + (is_direct ? "" : " (buffered)")),
      file_(std::move(file)),
      engine_(std::move(engine)),
      queue_(*engine_, options.in_flight_max),
      space_(kExtentsBegin) {
  space_.extend(file_->bytes() - std::min(file_->bytes(), kExtentsBegin));
}

FileStore::~FileStore() {
  for (auto& [ticket, operation] : operations_) {
    if (!queue_.cancel(operation->queued)) engine_->wait(operation->queued.request);
  }
  if (!is_kept() || !log_ || !log_->failure().ok()) return;
  // What only this process knew of is gone with it.
  for (auto stored = extents_.begin(); stored != extents_.end();) {
    const auto current = stored++;
    current->second.hold_count = 0;
    free_if_unused(current);
  }
  (void)log_->mark_closed();
  (void)file_->shrink(space_.trim());
}

Status FileStore::recover() {
  const ReadAt read = [&](uint64_t file_offset, std::span<std::byte> target) -> Status {
    MemoryPool pool(target.size());
    VKV_TRY_ASSIGN(buffer, pool.allocate(target.size(), "reading the store's index"));
    IoRequest request{
        .file_offset = file_offset, .data = buffer.data(), .byte_count = buffer.bytes().size()};
    engine_->submit(request);
    engine_->wait(request);
    const Status status = transferred(request);
    if (status.ok()) std::copy_n(buffer.data(), target.size(), target.data());
    return status;
  };
  VKV_TRY_ASSIGN(loaded, load_index(file_->superblock(), read));
  LoadedIndex& index = loaded;
  const auto note = [&](const Status& status) {
    if (index.damage.ok()) index.damage = status;
    return status.ok();
  };
  for (const uint64_t segment : index.tail.segments) note(claim(segment, kIndexSegmentBytes));
  for (auto& [key, sequence] : index.sequences) {
    // What cannot be as the index says is not there for readers either.
    if (note(adopt(sequence))) sequences_.emplace(key, std::move(sequence));
  }
  index_segment_count_ = index.tail.segments.size();
  stats_.bytes_peak = stats_.bytes_reserved;
  if (options_.use == StoreUse::kReadOnly) {
    index_health_ = index.damage;
    return {};
  }
  if (!index.damage.ok()) {
    return {index.damage.code(), index.damage.message() + "; '" + file_->path() +
                                     "' is not written to any more: look at it with 'vkv "
                                     "inspect', or remove it"};
  }
  log_ = std::make_unique<StoreLog>(*engine_, file_->path(), file_->superblock(),
                                    std::move(index.tail), room_for_index());
  return log_->mark_open(static_cast<uint32_t>(getpid()));
}

Status FileStore::claim(uint64_t file_offset, uint64_t byte_count) {
  if (space_.claim(file_offset, byte_count)) return {};
  const bool is_truncated = file_offset + byte_count > space_.end();
  return {Code::kDataLoss, "the store '" + file_->path() + "' is " +
                               (is_truncated ? "truncated: it ends before the "
                                             : "damaged: its index has two uses for the ") +
                               std::to_string(byte_count) + " bytes at offset " +
                               std::to_string(file_offset)};
}

// Sequences that share an extent describe it alike.
Status FileStore::adopt(const StoredSequence& sequence) {
  for (const ExtentDescriptor& extent : sequence.extents) {
    const auto known = extents_.find(extent.file_offset);
    if (known == extents_.end()) {
      VKV_TRY(claim(extent.file_offset, extent.byte_count));
      extents_[extent.file_offset] = {
          .byte_count = extent.byte_count, .crc32c = extent.crc32c, .is_written = true};
      stats_.bytes_reserved += extent.byte_count;
      stats_.bytes_committed += extent.byte_count;
    } else if (known->second.byte_count != extent.byte_count ||
               known->second.crc32c != extent.crc32c) {
      return {Code::kDataLoss, "the store '" + file_->path() + "' is damaged: its index has two " +
                                   "descriptions of the extent at offset " +
                                   std::to_string(extent.file_offset)};
    }
    ++extents_[extent.file_offset].commit_count;
  }
  return {};
}

void FileStore::register_memory(std::span<const std::span<std::byte>> regions) {
  (void)engine_->register_memory(regions);
}

Result<StoreExtent> FileStore::reserve(uint64_t byte_count) {
  if (byte_count == 0) return Status(Code::kInvalidArgument, "nvme tier: 0 bytes asked for");
  if (byte_count <= bytes_max_) byte_count = round_up_bytes(byte_count, kExtentAlignment);

  const std::lock_guard lock(mutex_);
  VKV_TRY_ASSIGN(offset, allocate(byte_count, extent_bytes_max_));
  extents_[offset] = {.byte_count = byte_count, .hold_count = 1};
  stats_.bytes_reserved += byte_count;
  stats_.bytes_peak = std::max(stats_.bytes_peak, stats_.bytes_reserved);
  return StoreExtent{.file_offset = offset, .byte_count = byte_count};
}

Result<uint64_t> FileStore::allocate(uint64_t byte_count, uint64_t bytes_max) {
  if (options_.use == StoreUse::kReadOnly) {
    return Status(Code::kUnsupported, "the store '" + file_->path() + "' is open for reading only");
  }
  VKV_TRY(make_room(byte_count, bytes_max));
  const std::optional<uint64_t> offset = space_.allocate(byte_count);
  VKV_CHECK(offset.has_value());
  return *offset;
}

// Grows the file until a hole takes byte_count bytes. Lock held.
Status FileStore::make_room(uint64_t byte_count, uint64_t bytes_max) {
  const uint64_t room_bytes = bytes_max - std::min(bytes_max, space_.end());
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
  const auto stored = extents_.find(extent.file_offset);
  VKV_CHECK(stored != extents_.end() && stored->second.byte_count == extent.byte_count);
  VKV_CHECK(stored->second.hold_count > 0);
  // Whose operations they are is known where nobody else holds it.
  VKV_CHECK(stored->second.hold_count > 1 || stored->second.in_flight_count == 0);
  --stored->second.hold_count;
  free_if_unused(stored);
}

void FileStore::free_if_unused(std::map<uint64_t, Stored>::iterator stored) {
  const auto& [offset, extent] = *stored;
  if (extent.hold_count > 0 || extent.commit_count > 0) return;
  space_.release(offset, extent.byte_count);
  stats_.bytes_reserved -= extent.byte_count;
  extents_.erase(stored);
}

Result<IoTicket> FileStore::submit_write(StoreExtent& extent, std::span<const std::byte> source,
                                         IoPriority priority) {
  VKV_CHECK(source.size() == extent.byte_count);
  extent.crc32c = crc32c(source);
  // The engine reads from it only.
  std::byte* const data = const_cast<std::byte*>(source.data());
  return submit(extent,
                {.request = {.kind = IoRequest::Kind::kWrite, .data = data}, .priority = priority});
}

Result<IoTicket> FileStore::submit_read(const StoreExtent& extent, std::span<std::byte> target,
                                        IoPriority priority, IoDeadline deadline) {
  VKV_CHECK(target.size() == extent.byte_count);
  return submit(extent,
                {.request = {.data = target.data()}, .priority = priority, .deadline = deadline});
}

Result<IoTicket> FileStore::submit(const StoreExtent& extent, const QueuedRequest& queued) {
  auto owned = std::make_unique<Operation>();
  Operation& operation = *owned;
  operation.queued = queued;
  operation.crc32c = extent.crc32c;
  IoRequest& request = operation.queued.request;
  VKV_CHECK(reinterpret_cast<uintptr_t>(request.data) % kExtentAlignment == 0);
  request.file_offset = extent.file_offset;
  request.byte_count = extent.byte_count;

  uint64_t ticket = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto stored = extents_.find(extent.file_offset);  // not reserved, or released:
    VKV_CHECK(stored != extents_.end() && stored->second.byte_count == extent.byte_count);
    VKV_CHECK(stored->second.hold_count > 0);
    // What a sequence has committed never changes.
    VKV_CHECK(request.kind == IoRequest::Kind::kRead || stored->second.commit_count == 0);
    ++stored->second.in_flight_count;
    ticket = next_ticket_++;
    operations_.emplace(ticket, std::move(owned));
  }
  queue_.submit(operation.queued);
  return static_cast<IoTicket>(ticket);
}

FileStore::Operation& FileStore::operation_of(IoTicket ticket) {
  const auto found = operations_.find(static_cast<uint64_t>(ticket));
  VKV_CHECK(found != operations_.end());  // never given out, or finished before
  return *found->second;
}

void FileStore::forget(IoTicket ticket) {
  --extents_.at(operation_of(ticket).queued.request.file_offset).in_flight_count;
  operations_.erase(static_cast<uint64_t>(ticket));
}

Status FileStore::wait(IoTicket ticket) {
  Operation* operation = nullptr;
  {
    const std::lock_guard lock(mutex_);
    operation = &operation_of(ticket);
    VKV_CHECK(!operation->is_waited_for);  // by another thread
    operation->is_waited_for = true;
  }
  queue_.wait(operation->queued);
  Status status = outcome(*operation);

  const std::lock_guard lock(mutex_);
  const IoRequest& request = operation->queued.request;
  const bool is_read = request.kind == IoRequest::Kind::kRead;
  ++(is_read ? stats_.read_count : stats_.write_count);
  (is_read ? stats_.read_bytes : stats_.written_bytes) += request.bytes_done;
  if (!is_read) {
    Stored& stored = extents_.at(request.file_offset);
    stored.is_written = status.ok();
    stored.crc32c = operation->crc32c;
  }
  forget(ticket);
  return status;
}

void FileStore::cancel(IoTicket ticket) {
  Operation* operation = nullptr;
  {
    const std::lock_guard lock(mutex_);
    operation = &operation_of(ticket);
    VKV_CHECK(!operation->is_waited_for);
  }
  if (!queue_.cancel(operation->queued)) return (void)wait(ticket);
  const std::lock_guard lock(mutex_);
  ++stats_.cancelled_count;
  forget(ticket);
}

// Whether all bytes were moved.
Status FileStore::transferred(const IoRequest& request) const {
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
  return {};
}

Status FileStore::outcome(const Operation& operation) const {
  const IoRequest& request = operation.queued.request;
  VKV_TRY(transferred(request));
  if (request.kind != IoRequest::Kind::kRead) return {};
  const uint32_t found = crc32c({request.data, request.byte_count});
  if (found == operation.crc32c) return {};
  char sums[64];
  std::snprintf(sums, sizeof(sums), "%08x, written was %08x", found, operation.crc32c);
  return {Code::kDataLoss, "the store is damaged: the checksum of " +
                               std::to_string(request.byte_count) + " bytes at offset " +
                               std::to_string(request.file_offset) + " of '" + file_->path() +
                               "' is " + sums};
}

bool FileStore::ready(IoTicket ticket) {
  Operation* operation = nullptr;
  {
    const std::lock_guard lock(mutex_);
    operation = &operation_of(ticket);
  }
  return queue_.done(operation->queued);
}

Status FileStore::commit(const CommittedSequence& sequence) {
  if (!is_kept()) {
    return {Code::kUnsupported, "the store '" + file_->path() + "' is not kept: nothing in it " +
                                    "outlives this process"};
  }
  const std::lock_guard committing(commit_mutex_);
  IndexBatch batch;
  {
    const std::lock_guard lock(mutex_);
    VKV_TRY_ASSIGN(stored, described(sequence));
    if (sequences_.contains(sequence.key)) batch.erased.push_back(sequence.key);
    batch.saved.push_back(std::move(stored));
  }
  return commit_batch(batch);
}

Status FileStore::erase(const SequenceKey& key) {
  const std::lock_guard committing(commit_mutex_);
  {
    const std::lock_guard lock(mutex_);
    if (!sequences_.contains(key)) {
      return {Code::kNotFound, "the store has no sequence " + to_hex(key)};
    }
  }
  return commit_batch({.erased = {key}, .saved = {}});
}

Status FileStore::commit_batch(const IndexBatch& batch) {
  if (!log_) {
    return {Code::kUnsupported, "the store '" + file_->path() + "' is open for reading only"};
  }
  StoredSequences after;
  {
    const std::lock_guard lock(mutex_);
    after = sequences_;
  }
  VKV_TRY(apply(batch, after));
  const Status status = log_->commit(batch, after);

  const std::lock_guard lock(mutex_);
  index_health_ = log_->failure();
  index_segment_count_ = log_->segment_count();
  stats_.index_written_bytes = log_->written_bytes();
  VKV_TRY(status);
  ++stats_.commit_count;
  // New ones first: extents that pass from one sequence to another must not be freed between.
  for (const StoredSequence& sequence : batch.saved) {
    for (const ExtentDescriptor& extent : sequence.extents) {
      Stored& stored = extents_.at(extent.file_offset);
      if (stored.commit_count++ == 0) stats_.bytes_committed += stored.byte_count;
    }
  }
  for (const SequenceKey& key : batch.erased) {
    for (const ExtentDescriptor& extent : sequences_.at(key).extents) {
      const auto stored = extents_.find(extent.file_offset);
      if (--stored->second.commit_count == 0) stats_.bytes_committed -= stored->second.byte_count;
      free_if_unused(stored);
    }
  }
  sequences_ = std::move(after);
  return {};
}

Result<StoredSequence> FileStore::described(const CommittedSequence& sequence) const {
  StoredSequence stored{.key = sequence.key,
                        .token_count = sequence.token_count,
                        .generation = sequence.generation,
                        .saved_at = now_seconds()};
  std::set<uint64_t> seen;
  for (const auto& [extent, label] : sequence.extents) {
    const auto found = extents_.find(extent.file_offset);
    VKV_CHECK(found != extents_.end() && found->second.hold_count > 0);
    VKV_CHECK(found->second.byte_count == extent.byte_count);
    VKV_CHECK(found->second.is_written);
    VKV_CHECK(seen.insert(extent.file_offset).second);
    VKV_CHECK(extent.byte_count <= UINT32_MAX);
    stored.extents.push_back({.kind = label.kind,
                              .k_codec = label.k_codec,
                              .v_codec = label.v_codec,
                              .layer = label.layer,
                              .file_offset = extent.file_offset,
                              .byte_count = static_cast<uint32_t>(extent.byte_count),
                              .crc32c = found->second.crc32c,
                              .block_count = label.block_count,
                              .token_count = label.token_count});
  }
  return stored;
}

Result<CommittedSequence> FileStore::hold(const SequenceKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = sequences_.find(key);
  if (found == sequences_.end()) {
    return Status(Code::kNotFound, "the store has no sequence " + to_hex(key));
  }
  const StoredSequence& stored = found->second;
  CommittedSequence sequence{
      .key = key, .token_count = stored.token_count, .generation = stored.generation};
  for (const ExtentDescriptor& extent : stored.extents) {
    ++extents_.at(extent.file_offset).hold_count;
    sequence.extents.push_back({.extent = {.file_offset = extent.file_offset,
                                           .byte_count = extent.byte_count,
                                           .crc32c = extent.crc32c},
                                .label = {.kind = extent.kind,
                                          .k_codec = extent.k_codec,
                                          .v_codec = extent.v_codec,
                                          .layer = extent.layer,
                                          .block_count = extent.block_count,
                                          .token_count = extent.token_count}});
  }
  return sequence;
}

void FileStore::hold(const StoreExtent& extent) {
  const std::lock_guard lock(mutex_);
  Stored& stored = extents_.at(extent.file_offset);
  VKV_CHECK(stored.byte_count == extent.byte_count && stored.hold_count > 0);
  ++stored.hold_count;
}

std::vector<StoredSequence> FileStore::committed() const {
  const std::lock_guard lock(mutex_);
  std::vector<StoredSequence> all;
  for (const auto& [key, sequence] : sequences_) all.push_back(sequence);
  return all;
}

Status FileStore::health() const {
  const std::lock_guard lock(mutex_);
  return index_health_;
}

StoreLog::Room FileStore::room_for_index() {
  return {.reserve = [this]() -> Result<uint64_t> {
            const std::lock_guard lock(mutex_);
            return allocate(kIndexSegmentBytes, bytes_max_);
          },
          .release =
              [this](uint64_t file_offset) {
                const std::lock_guard lock(mutex_);
                space_.release(file_offset, kIndexSegmentBytes);
              }};
}

BlockStoreStats FileStore::stats() const {
  const std::lock_guard lock(mutex_);
  BlockStoreStats stats = stats_;
  stats.index_bytes = kExtentsBegin + index_segment_count_ * kIndexSegmentBytes;
  stats.file_bytes = file_->bytes();
  stats.late_count = queue_.late_count();
  return stats;
}

}  // namespace vkv
