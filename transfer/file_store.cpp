// file_store.cpp: room, tickets, checksums and errors over a file and an engine.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/file_store.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "runtime/base/block_format.h"
#include "transfer/crc32c.h"

namespace vkv {
namespace {

// Kept free of extents, so that a store that is full can still write its index anew: erase() works.
constexpr uint64_t kIndexSpareBytes = 2 * kIndexSegmentBytes;

// Between two notes; a process that is killed forgets so much at most.
constexpr uint64_t kNoteBytes = uint64_t{64} << 20;

uint64_t now_us() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

}  // namespace

FileStore::FileStore(const BlockStoreOptions& options, std::unique_ptr<StoreFile> file,
                     std::unique_ptr<IoEngine> engine, bool is_direct)
    : options_(options),
      bytes_max_(options.bytes_max / kExtentAlignment * kExtentAlignment),
      extent_bytes_max_(is_kept() ? bytes_max_ - kIndexSpareBytes : bytes_max_),
      name_(std::string(engine->name()) + (is_direct ? "" : " (buffered)")),
      file_(std::move(file)),
      engine_(std::move(engine)),
      queue_(*engine_, options.in_flight_max),
      room_(*file_, bytes_max_),
      ledger_(options.write_bytes_per_day) {}

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
  count_index_writes();
  note_writes();
  (void)room_.trim();
  (void)room_.give_back(0);
}

void FileStore::register_memory(std::span<const std::span<std::byte>> regions) {
  (void)engine_->register_memory(regions);
}

Result<StoreExtent> FileStore::reserve(uint64_t byte_count) {
  if (byte_count == 0) return Status(Code::kInvalidArgument, "nvme tier: 0 bytes asked for");
  const uint64_t payload_bytes = byte_count;
  if (byte_count <= bytes_max_) byte_count = round_up_bytes(byte_count, kExtentAlignment);

  const std::lock_guard lock(mutex_);
  VKV_TRY_ASSIGN(offset, allocate(byte_count, extent_bytes_max_));
  extents_[offset] = {.byte_count = byte_count, .payload_bytes = payload_bytes, .hold_count = 1};
  stats_.bytes_reserved += byte_count;
  stats_.bytes_peak = std::max(stats_.bytes_peak, stats_.bytes_reserved);
  return StoreExtent{.file_offset = offset, .byte_count = byte_count};
}

Result<uint64_t> FileStore::allocate(uint64_t byte_count, uint64_t bytes_max) {
  if (options_.use == StoreUse::kReadOnly) {
    return Status(Code::kUnsupported, "the store '" + file_->path() + "' is open for reading only");
  }
  return room_.allocate(byte_count, bytes_max);
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
  room_.release(offset, extent.byte_count);
  stats_.bytes_reserved -= extent.byte_count;
  extents_.erase(stored);
}

Result<IoTicket> FileStore::submit_write(StoreExtent& extent, std::span<const std::byte> source,
                                         IoPriority priority) {
  VKV_CHECK(source.size() == extent.byte_count);
  {
    const std::lock_guard lock(mutex_);
    if (!ledger_.spend(source.size(), now_us())) {
      return Status(Code::kOutOfMemory, "nvme tier: " + std::to_string(source.size()) +
                                            " bytes to be written, the write budget of " +
                                            std::to_string(options_.write_bytes_per_day) +
                                            " bytes a day has " +
                                            std::to_string(ledger_.left(now_us())) +
                                            " left now; raise it, wait, or give blocks more DRAM");
    }
  }
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
    if (status.ok()) stats_.payload_bytes += stored.payload_bytes;
    if (is_kept() && stats_.written_bytes >= noted_bytes_ + kNoteBytes) note_writes();
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
                room_.release(file_offset, kIndexSegmentBytes);
              }};
}

bool FileStore::writes_are_short() {
  const std::lock_guard lock(mutex_);
  return ledger_.is_short(now_us());
}

WriteNote FileStore::writes_of_life() const {
  const uint64_t now = now_us();
  return {.payload_bytes = life_before_.payload_bytes + stats_.payload_bytes,
          .written_bytes =
              life_before_.written_bytes + stats_.written_bytes + stats_.index_written_bytes,
          .spent_bytes = ledger_.spent(now),
          .at_us = now};
}

// The index is written whatever is left: erasing has to go on, and so has what was paid for.
void FileStore::count_index_writes() {
  ledger_.spend_anyway(log_->written_bytes() - stats_.index_written_bytes, now_us());
  stats_.index_written_bytes = log_->written_bytes();
}

void FileStore::note_writes() {
  file_->write_note(kNoteName, encode(writes_of_life()));
  noted_bytes_ = stats_.written_bytes;
}

BlockStoreStats FileStore::stats() const {
  const std::lock_guard lock(mutex_);
  BlockStoreStats stats = stats_;
  stats.index_bytes = kExtentsBegin + index_segment_count_ * kIndexSegmentBytes;
  stats.file_bytes = file_->bytes();
  stats.disk_bytes = file_->disk_bytes();
  stats.late_count = queue_.late_count();
  stats.write_bytes_left = ledger_.left(now_us());
  const WriteNote life = writes_of_life();
  stats.life_payload_bytes = life.payload_bytes;
  stats.life_written_bytes = life.written_bytes;
  return stats;
}

}  // namespace vkv
