// store_log.cpp: pages, superblocks and syncs, in the order that makes them last.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/store_log.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "transfer/store_file.h"

namespace vkv {
namespace {

// The chain is written anew when it has so many pages, and so many times what it needs.
constexpr uint64_t kRewritePagesMin = 4 * kIndexSegmentPages;
constexpr uint64_t kRewriteFactor = 4;

constexpr size_t kWriteBytesMax = size_t{1} << 20;

IndexBatch batch_of(const StoredSequences& all) {
  IndexBatch batch;
  for (const auto& [key, sequence] : all) batch.saved.push_back(sequence);
  return batch;
}

}  // namespace

StoreLog::StoreLog(IoEngine& engine, std::string path, Superblock superblock, IndexTail tail,
                   Room room)
    : engine_(engine),
      path_(std::move(path)),
      room_(std::move(room)),
      superblock_(superblock),
      tail_(std::move(tail)) {}

Status StoreLog::commit(const IndexBatch& batch, const StoredSequences& after) {
  VKV_TRY(failure_);
  VKV_TRY(sync());
  size_t entries = 0;  // of all that the store holds then
  for (const auto& [key, sequence] : after) entries += 1 + sequence.extents.size();
  const uint64_t pages = tail_.next.number + page_count(batch);
  const bool is_long =
      pages >= kRewritePagesMin && pages >= kRewriteFactor * (entries / kEntriesPerPage + 1);
  return superblock_.index_offset == 0 || is_long ? rewrite(after) : append(batch);
}

Status StoreLog::append(const IndexBatch& batch) {
  IndexTail tail = tail_;
  VKV_TRY_ASSIGN(segments,
                 reserve(segments_needed(tail, std::max<uint64_t>(page_count(batch), 1))));
  const std::vector<PageWrite> pages = append_pages(batch, segments, tail);
  VKV_TRY(write_pages(pages));
  VKV_TRY(sync());
  tail_ = std::move(tail);
  if (segments.empty()) return {};
  // So that a damaged link to the new segment is noticed: the index must reach this commit.
  superblock_.commit = tail_.commit;
  return write_superblock();
}

// The old chain counts until a superblock names the new one.
Status StoreLog::rewrite(const StoredSequences& all) {
  IndexTail tail{.next = {.store = superblock_.store, .epoch = superblock_.epoch + 1},
                 .commit = tail_.commit};
  const IndexBatch batch = batch_of(all);
  VKV_TRY_ASSIGN(segments,
                 reserve(segments_needed(tail, std::max<uint64_t>(page_count(batch), 1))));
  const std::vector<PageWrite> pages = append_pages(batch, segments, tail);
  VKV_TRY(write_pages(pages));
  VKV_TRY(sync());
  superblock_.epoch = tail.next.epoch;
  superblock_.index_offset = tail.segments.front();
  superblock_.commit = tail.commit;
  VKV_TRY(write_superblock());
  std::swap(tail_, tail);
  for (const uint64_t segment : tail.segments) room_.release(segment);
  return {};
}

Result<std::vector<uint64_t>> StoreLog::reserve(uint64_t segments) {
  std::vector<uint64_t> offsets;
  while (offsets.size() < segments) {
    const Result<uint64_t> offset = room_.reserve();
    if (!offset.ok()) {
      for (const uint64_t taken : offsets) room_.release(taken);
      return offset.status();
    }
    offsets.push_back(offset.value());
  }
  return offsets;
}

Status StoreLog::mark_open(uint32_t process) {
  superblock_.process = process;
  superblock_.is_closed = false;
  return write_superblock();
}

Status StoreLog::mark_closed() {
  VKV_TRY(failure_);
  VKV_TRY(sync());
  superblock_.process = 0;
  superblock_.is_closed = true;
  superblock_.commit = tail_.commit;
  return write_superblock();
}

// One copy is whole at every moment, and nothing that the older one names is given up before both
// are new.
Status StoreLog::write_superblock() {
  ++superblock_.sequence;
  StorePage page;
  encode(superblock_, page);
  for (uint64_t i = 0; i < kSuperblockCopies; ++i) {
    VKV_TRY(write_pages({{.file_offset = i * kPageBytes, .page = page}}));
    VKV_TRY(sync());
  }
  return {};
}

// Pages that lie next to each other go in one write.
Status StoreLog::write_pages(const std::vector<PageWrite>& pages) {
  if (!buffer_) {
    VKV_TRY_ASSIGN(buffer, pool_.allocate(kWriteBytesMax, "writing the store's index"));
    buffer_ = std::move(buffer);
  }
  uint64_t byte_count = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    std::memcpy(buffer_.data() + byte_count, pages[i].page.data(), kPageBytes);
    byte_count += kPageBytes;
    const bool goes_on = i + 1 < pages.size() && byte_count < kWriteBytesMax &&
                         pages[i + 1].file_offset == pages[i].file_offset + kPageBytes;
    if (goes_on) continue;
    VKV_TRY(write(pages[i].file_offset + kPageBytes - byte_count, byte_count));
    byte_count = 0;
  }
  return {};
}

Status StoreLog::write(uint64_t file_offset, uint64_t byte_count) {
  IoRequest request{.kind = IoRequest::Kind::kWrite,
                    .file_offset = file_offset,
                    .data = buffer_.data(),
                    .byte_count = byte_count};
  engine_.submit(request);
  engine_.wait(request);
  if (request.error != 0) failure_ = file_error("write the index of", path_, request.error);
  written_bytes_ += request.bytes_done;
  return failure_;
}

// After a failed sync nobody knows what the disk has: a second one may well succeed without the
// first one's pages.
Status StoreLog::sync() {
  IoRequest request{.kind = IoRequest::Kind::kSync};
  engine_.submit(request);
  engine_.wait(request);
  if (request.error != 0) failure_ = file_error("sync", path_, request.error);
  return failure_;
}

}  // namespace vkv
