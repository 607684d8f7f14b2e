// store_index.h: the index of a store as a log of pages: read back whole, appended to by commits.
// SPDX-License-Identifier: Apache-2.0
//
// The index is a chain of segments of kIndexSegmentPages pages; the last page of each names the
// next. A commit appends the pages of one batch. Every page holds the checksum of the page before
// it, so that a page left over from an earlier attempt at the same place is never taken for a
// continuation. Pages are written once: what is committed is never written again.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "transfer/store_format.h"
#include "vkv/status.h"

namespace vkv {

using StoredSequences = std::map<SequenceKey, StoredSequence>;

// Where a chain ends.
struct IndexTail {
  std::vector<uint64_t> segments;  // file offsets, kIndexSegmentBytes each, in order
  PagePosition next;               // of the page that comes next
  uint64_t commit = 0;             // of the last batch

  bool operator==(const IndexTail&) const = default;
};

struct LoadedIndex {
  StoredSequences sequences;
  IndexTail tail;
  // Not ok: there is proof that committed pages are lost or were changed. What was committed before
  // them is in `sequences`, what came after may be missing.
  Status damage;
};

// Fills `target` from the file. Errors: those of the disk; kDataLoss where the file ends.
using ReadAt = std::function<Status(uint64_t file_offset, std::span<std::byte> target)>;

// Reads the chain that the superblock names, up to the last commit. Pages behind it are what a
// commit that never ended has left. Errors: kIo.
Result<LoadedIndex> load_index(const Superblock& superblock, const ReadAt& read);

// Adds the batch to what it changes. Errors: kDataLoss where it erases or saves what it cannot.
Status apply(const IndexBatch& batch, StoredSequences& sequences);

// A page and where it goes.
struct PageWrite {
  uint64_t file_offset = 0;
  StorePage page;
};

// The pages that continue `tail` by the batch, whose number is tail.commit + 1. Moves `tail` behind
// them. new_segments: as many as segments_needed() says. None of it is in the file yet.
uint64_t segments_needed(const IndexTail& tail, uint64_t pages);
std::vector<PageWrite> append_pages(const IndexBatch& batch, std::span<const uint64_t> new_segments,
                                    IndexTail& tail);

}  // namespace vkv
