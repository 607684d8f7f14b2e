// store_index.cpp: reading the chain, and continuing it.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/store_index.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

namespace vkv {
namespace {

Status damaged(const std::string& what) {
  return {Code::kDataLoss, "the index of the store is damaged: " + what};
}

class ChainReader {
 public:
  ChainReader(const Superblock& superblock, const ReadAt& read)
      : superblock_(superblock), read_(read), segment_(kIndexSegmentBytes) {
    next_ = {.store = superblock.store, .epoch = superblock.epoch};
    index_.tail.next = next_;
  }

  Result<LoadedIndex> run() {
    uint64_t offset = superblock_.index_offset;
    while (offset != 0 && index_.damage.ok()) {
      const Status status = read_(offset, segment_);
      if (status.code() == Code::kDataLoss) {
        index_.damage = status;
        break;
      }
      VKV_TRY(status);
      index_.tail.segments.push_back(offset);
      offset = read_segment();
    }
    if (index_.damage.ok()) index_.damage = compare_commits();
    forget_empty_segments();
    return std::move(index_);
  }

 private:
  std::span<const std::byte, kPageBytes> slot(uint64_t index) const {
    return std::span<const std::byte>(segment_).subspan(index * kPageBytes).first<kPageBytes>();
  }

  // Takes the pages that belong to the chain. Returns the next segment's offset, 0: the chain ends.
  uint64_t read_segment() {
    for (uint64_t i = 0; i < kIndexSegmentPages; ++i) {
      const std::optional<IndexPage> page = decode_page(slot(i));
      const bool is_last = i + 1 == kIndexSegmentPages;
      const bool belongs = page && page->position == next_ &&
                           (page->next_segment != 0) == is_last &&
                           (next_.number == 0 || page->commit == index_.tail.commit + 1);
      if (!belongs) {
        index_.damage = look_behind(i);
        return 0;
      }
      if (next_.number == 0) index_.tail.commit = page->commit - 1;
      next_.before = page->checksum;
      ++next_.number;
      pending_.insert(pending_.end(), page->entries.begin(), page->entries.end());
      if (page->ends_batch) index_.damage = take_batch();
      if (!index_.damage.ok()) return 0;
      if (is_last) return page->next_segment;
    }
    return 0;
  }

  Status take_batch() {
    const std::optional<IndexBatch> batch = decode_entries(pending_);
    if (!batch)
      return damaged("commit " + std::to_string(index_.tail.commit + 1) + " has entries" +
                     " that mean nothing");
    pending_.clear();
    VKV_TRY(apply(*batch, index_.sequences));
    index_.tail.next = next_;
    ++index_.tail.commit;
    return {};
  }

  // A batch is begun when the one before it has reached the disk. So a page of a later batch than
  // the one that is missing here proves that this one was committed.
  Status look_behind(uint64_t missing) const {
    for (uint64_t i = missing + 1; i < kIndexSegmentPages; ++i) {
      const std::optional<IndexPage> page = decode_page(slot(i));
      if (page && page->position.store == next_.store && page->position.epoch == next_.epoch &&
          page->position.number == next_.number + i - missing &&
          page->commit > index_.tail.commit + 1) {
        return damaged("page " + std::to_string(next_.number) + " is not what was written, and " +
                       "commit " + std::to_string(page->commit) + " follows it");
      }
    }
    return {};
  }

  Status compare_commits() const {
    const uint64_t found = index_.tail.commit;
    if (superblock_.index_offset == 0) return {};
    const bool is_right =
        superblock_.is_closed ? found == superblock_.commit : found >= superblock_.commit;
    if (is_right) return {};
    return damaged("it ends with commit " + std::to_string(found) + ", written was " +
                   std::to_string(superblock_.commit));
  }

  // A segment that no committed page lies in is as good as free.
  void forget_empty_segments() {
    const uint64_t used = (index_.tail.next.number + kIndexSegmentPages - 1) / kIndexSegmentPages;
    // The last page of a full segment has named the next one for good.
    const bool is_full =
        index_.tail.next.number > 0 && index_.tail.next.number % kIndexSegmentPages == 0;
    const uint64_t kept = std::max<uint64_t>(used + (is_full ? 1 : 0), 1);
    if (index_.tail.segments.size() > kept) index_.tail.segments.resize(kept);
  }

  const Superblock& superblock_;
  const ReadAt& read_;
  std::vector<std::byte> segment_;
  std::vector<std::byte> pending_;  // entries of the batch that has not ended
  PagePosition next_;
  LoadedIndex index_;
};

}  // namespace

Result<LoadedIndex> load_index(const Superblock& superblock, const ReadAt& read) {
  return ChainReader(superblock, read).run();
}

Status apply(const IndexBatch& batch, StoredSequences& sequences) {
  for (const SequenceKey& key : batch.erased) {
    if (sequences.erase(key) == 0)
      return damaged("it erases " + to_hex(key) + ", which is not there");
  }
  for (const StoredSequence& sequence : batch.saved) {
    if (!sequences.emplace(sequence.key, sequence).second) {
      return damaged("it saves " + to_hex(sequence.key) + " twice");
    }
  }
  return {};
}

uint64_t segments_needed(const IndexTail& tail, uint64_t pages) {
  // One more where the last page fills its segment: that page names the next.
  const uint64_t needed = (tail.next.number + pages) / kIndexSegmentPages + 1;
  return needed - std::min<uint64_t>(needed, tail.segments.size());
}

std::vector<PageWrite> append_pages(const IndexBatch& batch, std::span<const uint64_t> new_segments,
                                    IndexTail& tail) {
  const std::vector<std::byte> entries = encode_entries(batch);
  // A batch without entries is a page without entries: it is still a commit.
  const uint64_t pages = std::max<uint64_t>(page_count(batch), 1);
  VKV_CHECK(new_segments.size() == segments_needed(tail, pages));
  tail.segments.insert(tail.segments.end(), new_segments.begin(), new_segments.end());
  ++tail.commit;

  std::vector<PageWrite> writes(pages);
  std::span<const std::byte> left = entries;
  for (uint64_t i = 0; i < pages; ++i) {
    const uint64_t segment = tail.next.number / kIndexSegmentPages;
    const uint64_t slot = tail.next.number % kIndexSegmentPages;
    const size_t taken = std::min(left.size(), kEntriesPerPage * kIndexEntryBytes);
    writes[i].file_offset = tail.segments[segment] + slot * kPageBytes;
    tail.next.before =
        encode({.position = tail.next,
                .commit = tail.commit,
                .ends_batch = i + 1 == pages,
                .next_segment = slot + 1 == kIndexSegmentPages ? tail.segments[segment + 1] : 0,
                .entries = left.first(taken)},
               writes[i].page);
    left = left.subspan(taken);
    ++tail.next.number;
  }
  return writes;
}

}  // namespace vkv
