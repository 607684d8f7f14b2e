// store_format.h: the bytes of a store file besides its extents: superblock and index pages.
// SPDX-License-Identifier: Apache-2.0
//
// Version 1, frozen: transfer/README.md has it byte by byte. Functions here turn bytes into values
// and back, and believe nothing: whatever bytes come in, what goes out is valid or is nothing. They
// do no input or output.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/base/block_format.h"
#include "vkv/saved.h"
#include "vkv/types.h"

namespace vkv {

inline constexpr std::string_view kStoreMagic = "VKVSTORE";
inline constexpr std::string_view kIndexMagic = "VKVINDEX";
inline constexpr uint32_t kStoreVersion = 1;
inline constexpr uint64_t kPageBytes = 4096;  // superblock copies and index pages
inline constexpr uint64_t kSuperblockCopies = 2;
inline constexpr uint64_t kExtentsBegin = kSuperblockCopies * kPageBytes;
inline constexpr uint64_t kIndexSegmentPages = 64;
inline constexpr uint64_t kIndexSegmentBytes = kIndexSegmentPages * kPageBytes;
inline constexpr uint64_t kStoreBytesMax = uint64_t{1} << 44;  // page numbers have 32 bits

using StorePage = std::array<std::byte, kPageBytes>;
using StoreId = std::array<uint8_t, 16>;  // random, of one file

struct Superblock {
  uint32_t process = 0;  // pid of the owner while it is open, to name it in messages
  StoreId store{};
  uint64_t sequence = 0;      // of the copies the higher counts
  uint64_t epoch = 0;         // of the index
  uint64_t index_offset = 0;  // of its first segment; 0: nothing was ever committed
  uint64_t commit = 0;        // the index has at least this many commits
  bool is_temporary = false;  // means nothing once its process has ended
  bool is_closed = false;     // the index has exactly `commit` commits
  bool operator==(const Superblock&) const = default;
};

void encode(const Superblock& block, StorePage& page);
// Nothing where magic, version, checksum or a field is wrong.
std::optional<Superblock> decode_superblock(std::span<const std::byte, kPageBytes> page);

// What is known of bytes that are no valid superblock, to say so.
struct SuperblockGuess {
  bool has_magic = false;
  uint32_t version = 0;
  uint32_t process = 0;
};
SuperblockGuess guess_superblock(std::span<const std::byte> first_bytes);

// What stands in an extent: for those who list a store, which itself never looks at it. The numbers
// are stored: append only.
enum class StoredKind : uint8_t { kState = 1, kOriginal = 2, kLow = 3, kHigh = 4 };
std::string_view name(StoredKind kind);  // "state", "original", "low", "high"

// Everything the index knows of an extent: 64 bytes there.
struct ExtentDescriptor {
  StoredKind kind = StoredKind::kState;
  Codec k_codec = Codec::kF16;
  Codec v_codec = Codec::kF16;
  uint32_t layer = 0;
  uint64_t file_offset = 0;  // a multiple of kExtentAlignment, kExtentsBegin or more
  uint32_t byte_count = 0;   // a multiple of kExtentAlignment, not 0
  uint32_t crc32c = 0;       // of the bytes
  uint32_t block_count = 0;
  uint32_t token_count = 0;
  bool operator==(const ExtentDescriptor&) const = default;
};

struct StoredSequence {
  SequenceKey key;
  uint32_t token_count = 0;
  uint32_t generation = 0;  // of what the state names: model shape, codecs; equal ones fit together
  uint64_t saved_at = 0;    // seconds since 1970
  std::vector<ExtentDescriptor> extents;
  bool operator==(const StoredSequence&) const = default;
};

// What one commit changes, in this order.
struct IndexBatch {
  std::vector<SequenceKey> erased;
  std::vector<StoredSequence> saved;
  bool operator==(const IndexBatch&) const = default;
};

// Where in the index a page stands. Two pages with the same position differ in `before`.
struct PagePosition {
  StoreId store{};
  uint64_t epoch = 0;
  uint64_t number = 0;  // in the index, from 0
  uint32_t before = 0;  // the checksum of the page before; 0 for page 0
  bool operator==(const PagePosition&) const = default;
};

// One page as bytes tell it.
struct IndexPage {
  PagePosition position;
  uint64_t commit = 0;        // the batch it belongs to, from 1
  bool ends_batch = false;    // the commit record
  uint64_t next_segment = 0;  // file offset, in the last page of a segment; else 0
  uint32_t checksum = 0;
  std::span<const std::byte> entries;  // 64 bytes each, of the page
};

inline constexpr size_t kIndexEntryBytes = 64;
inline constexpr size_t kEntriesPerPage = kPageBytes / kIndexEntryBytes - 1;

size_t entry_count(const IndexBatch& batch);
inline uint64_t page_count(const IndexBatch& batch) {
  return (entry_count(batch) + kEntriesPerPage - 1) / kEntriesPerPage;
}

// The batch's entries, kIndexEntryBytes each.
std::vector<std::byte> encode_entries(const IndexBatch& batch);
// Nothing where an entry is of no known kind, has a value out of range, or one is missing.
std::optional<IndexBatch> decode_entries(std::span<const std::byte> entries);

// Fills a page; `position.before` must be the checksum of the page before. Returns the page's own.
uint32_t encode(const IndexPage& content, StorePage& page);
// Nothing where magic, checksum or counts are wrong. Its span points into `page`.
std::optional<IndexPage> decode_page(std::span<const std::byte, kPageBytes> page);

}  // namespace vkv
