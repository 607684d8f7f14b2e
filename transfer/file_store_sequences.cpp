// file_store_sequences.cpp: sequences of a kept file: found again, committed, erased, held.
// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <utility>

#include "transfer/file_store.h"
#include "transfer/memory_pool.h"

namespace vkv {
namespace {

uint64_t now_seconds() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

}  // namespace

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
  for (const uint64_t segment : index.tail.segments) note(room_.claim(segment, kIndexSegmentBytes));
  for (auto& [key, sequence] : index.sequences) {
    // What cannot be as the index says is not there for readers either.
    if (note(adopt(sequence))) sequences_.emplace(key, std::move(sequence));
  }
  room_.doubt_holes();
  index_segment_count_ = index.tail.segments.size();
  stats_.bytes_peak = stats_.bytes_reserved;
  if (const auto written = decode_write_note(file_->read_note(kNoteName))) {
    life_before_ = *written;
    ledger_.begin_with(*written);
  }
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
  VKV_TRY(log_->mark_open(static_cast<uint32_t>(getpid())));
  count_index_writes();
  return {};
}

// Sequences that share an extent describe it alike.
Status FileStore::adopt(const StoredSequence& sequence) {
  for (const ExtentDescriptor& extent : sequence.extents) {
    const auto known = extents_.find(extent.file_offset);
    if (known == extents_.end()) {
      VKV_TRY(room_.claim(extent.file_offset, extent.byte_count));
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
  count_index_writes();
  note_writes();
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
  // The erasure is on the disk: nothing can want these bytes any more.
  if (!batch.erased.empty()) stats_.given_back_bytes += room_.give_back(room_.step_bytes());
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

}  // namespace vkv
