// store_format.cpp: values to bytes and back.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/store_format.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/byte_stream.h"
#include "transfer/crc32c.h"

namespace vkv {
namespace {

enum class EntryType : uint8_t { kErased = 1, kSequence = 2, kExtent = 3 };

constexpr uint32_t kFlagTemporary = 1, kFlagClosed = 2;  // of a superblock
constexpr uint16_t kFlagEndsBatch = 1;                   // of a page
constexpr size_t kSuperblockFieldBytes = 72;
constexpr size_t kChecksumBytes = 4;
constexpr size_t kPageChecksumAt = 8;  // what follows it is what it covers
constexpr size_t kPageHeaderBytes = 64;
static_assert(kPageHeaderBytes + kEntriesPerPage * kIndexEntryBytes == kPageBytes);

void put_extent(ByteWriter& writer, const ExtentDescriptor& extent) {
  writer.put(EntryType::kExtent);
  writer.put(extent.kind);
  writer.put(extent.k_codec);
  writer.put(extent.v_codec);
  writer.put(extent.layer);
  writer.put(extent.file_offset);
  writer.put(extent.byte_count);
  writer.put(extent.crc32c);
  writer.put(extent.block_count);
  writer.put(extent.token_count);
  writer.put_zeros(32);
}

// The type has been read.
ExtentDescriptor get_extent(ByteReader& reader) {
  ExtentDescriptor extent;
  extent.kind = reader.get_up_to(StoredKind::kHigh);
  extent.k_codec = reader.get_up_to(Codec::kI1);
  extent.v_codec = reader.get_up_to(Codec::kI1);
  extent.layer = reader.get<uint32_t>();
  extent.file_offset = reader.get<uint64_t>();
  extent.byte_count = reader.get<uint32_t>();
  extent.crc32c = reader.get<uint32_t>();
  extent.block_count = reader.get<uint32_t>();
  extent.token_count = reader.get<uint32_t>();
  reader.expect_zeros(32);
  const bool is_legal = extent.kind >= StoredKind::kState && extent.byte_count > 0 &&
                        extent.byte_count % kExtentAlignment == 0 &&
                        extent.file_offset % kExtentAlignment == 0 &&
                        extent.file_offset >= kExtentsBegin && extent.file_offset < kStoreBytesMax;
  if (!is_legal) reader.fail();
  return extent;
}

void put_key(ByteWriter& writer, const SequenceKey& key) {
  writer.put_all(std::span<const uint8_t>(key.bytes));
}

SequenceKey get_key(ByteReader& reader) {
  SequenceKey key;
  reader.get_all(std::span<uint8_t>(key.bytes));
  return key;
}

}  // namespace

std::string_view name(StoredKind kind) {
  switch (kind) {
    case StoredKind::kState:
      return "state";
    case StoredKind::kOriginal:
      return "original";
    case StoredKind::kLow:
      return "low";
    default:
      return "high";
  }
}

void encode(const Superblock& block, StorePage& page) {
  std::vector<std::byte> bytes;
  ByteWriter writer(bytes);
  writer.put_text(kStoreMagic);
  writer.put(kStoreVersion);
  writer.put(block.process);
  writer.put_all(std::span<const uint8_t>(block.store));
  writer.put(block.sequence);
  writer.put(block.epoch);
  writer.put(block.index_offset);
  writer.put(block.commit);
  writer.put((block.is_temporary ? kFlagTemporary : 0) | (block.is_closed ? kFlagClosed : 0));
  writer.put(static_cast<uint32_t>(kFormatVersion));
  VKV_CHECK(bytes.size() == kSuperblockFieldBytes);
  writer.put_zeros(kPageBytes - kChecksumBytes - bytes.size());
  writer.put(crc32c(bytes));
  std::copy(bytes.begin(), bytes.end(), page.begin());
}

std::optional<Superblock> decode_superblock(std::span<const std::byte, kPageBytes> page) {
  ByteReader reader(page);
  Superblock block;
  reader.expect_text(kStoreMagic);
  if (reader.get<uint32_t>() != kStoreVersion) return std::nullopt;
  block.process = reader.get<uint32_t>();
  reader.get_all(std::span<uint8_t>(block.store));
  block.sequence = reader.get<uint64_t>();
  block.epoch = reader.get<uint64_t>();
  block.index_offset = reader.get<uint64_t>();
  block.commit = reader.get<uint64_t>();
  const auto flags = reader.get<uint32_t>();
  block.is_temporary = (flags & kFlagTemporary) != 0;
  block.is_closed = (flags & kFlagClosed) != 0;
  const auto format = reader.get<uint32_t>();
  reader.expect_zeros(kPageBytes - kChecksumBytes - kSuperblockFieldBytes);
  const auto checksum = reader.get<uint32_t>();
  const bool is_legal = reader.ok() && format == kFormatVersion &&
                        (flags & ~(kFlagTemporary | kFlagClosed)) == 0 &&
                        block.index_offset % kPageBytes == 0 &&
                        (block.index_offset == 0 || block.index_offset >= kExtentsBegin) &&
                        block.index_offset < kStoreBytesMax &&
                        checksum == crc32c(page.first(kPageBytes - kChecksumBytes));
  return is_legal ? std::optional(block) : std::nullopt;
}

SuperblockGuess guess_superblock(std::span<const std::byte> first_bytes) {
  ByteReader reader(first_bytes);
  reader.expect_text(kStoreMagic);
  SuperblockGuess guess{.has_magic = reader.ok()};
  guess.version = reader.get<uint32_t>();
  guess.process = reader.get<uint32_t>();
  guess.has_magic = reader.ok();
  return guess;
}

size_t entry_count(const IndexBatch& batch) {
  size_t count = batch.erased.size() + batch.saved.size();
  for (const StoredSequence& sequence : batch.saved) count += sequence.extents.size();
  return count;
}

std::vector<std::byte> encode_entries(const IndexBatch& batch) {
  std::vector<std::byte> bytes;
  bytes.reserve(entry_count(batch) * kIndexEntryBytes);
  ByteWriter writer(bytes);
  for (const SequenceKey& key : batch.erased) {
    writer.put(EntryType::kErased);
    writer.put_zeros(15);
    put_key(writer, key);
    writer.put_zeros(16);
  }
  for (const StoredSequence& sequence : batch.saved) {
    writer.put(EntryType::kSequence);
    writer.put_zeros(3);
    writer.put(static_cast<uint32_t>(sequence.extents.size()));
    writer.put(sequence.token_count);
    writer.put(sequence.generation);
    put_key(writer, sequence.key);
    writer.put(sequence.saved_at);
    writer.put_zeros(8);
    for (const ExtentDescriptor& extent : sequence.extents) put_extent(writer, extent);
  }
  VKV_CHECK(bytes.size() == entry_count(batch) * kIndexEntryBytes);
  return bytes;
}

std::optional<IndexBatch> decode_entries(std::span<const std::byte> entries) {
  IndexBatch batch;
  ByteReader reader(entries);
  while (reader.ok() && reader.bytes_left() > 0) {
    const auto type = reader.get<EntryType>();
    if (type == EntryType::kErased && batch.saved.empty()) {
      reader.expect_zeros(15);
      batch.erased.push_back(get_key(reader));
      reader.expect_zeros(16);
      continue;
    }
    if (type != EntryType::kSequence) return std::nullopt;
    StoredSequence sequence;
    reader.expect_zeros(3);
    const auto extent_count = reader.get<uint32_t>();
    sequence.token_count = reader.get<uint32_t>();
    sequence.generation = reader.get<uint32_t>();
    sequence.key = get_key(reader);
    sequence.saved_at = reader.get<uint64_t>();
    reader.expect_zeros(8);
    if (!reader.has(extent_count, kIndexEntryBytes)) return std::nullopt;
    for (uint32_t i = 0; i < extent_count; ++i) {
      if (reader.get<EntryType>() != EntryType::kExtent) return std::nullopt;
      sequence.extents.push_back(get_extent(reader));
    }
    batch.saved.push_back(std::move(sequence));
  }
  return reader.ok() ? std::optional(std::move(batch)) : std::nullopt;
}

uint32_t encode(const IndexPage& content, StorePage& page) {
  VKV_CHECK(content.entries.size() % kIndexEntryBytes == 0);
  VKV_CHECK(content.entries.size() <= kPageBytes - kPageHeaderBytes);
  std::vector<std::byte> bytes;
  ByteWriter writer(bytes);
  writer.put_text(kIndexMagic);
  writer.put(uint32_t{0});  // the checksum, below
  writer.put(content.position.before);
  writer.put_all(std::span<const uint8_t>(content.position.store));
  writer.put(content.position.epoch);
  writer.put(content.position.number);
  writer.put(content.commit);
  writer.put(static_cast<uint16_t>(content.entries.size() / kIndexEntryBytes));
  writer.put(content.ends_batch ? kFlagEndsBatch : uint16_t{0});
  writer.put(static_cast<uint32_t>(content.next_segment / kPageBytes));
  VKV_CHECK(bytes.size() == kPageHeaderBytes);
  writer.put_all(content.entries);
  writer.put_zeros(kPageBytes - bytes.size());
  const uint32_t checksum =
      crc32c(std::span<const std::byte>(bytes).subspan(kPageChecksumAt + kChecksumBytes));
  std::memcpy(bytes.data() + kPageChecksumAt, &checksum, sizeof(checksum));
  std::copy(bytes.begin(), bytes.end(), page.begin());
  return checksum;
}

std::optional<IndexPage> decode_page(std::span<const std::byte, kPageBytes> page) {
  ByteReader reader(page);
  IndexPage content;
  reader.expect_text(kIndexMagic);
  content.checksum = reader.get<uint32_t>();
  content.position.before = reader.get<uint32_t>();
  reader.get_all(std::span<uint8_t>(content.position.store));
  content.position.epoch = reader.get<uint64_t>();
  content.position.number = reader.get<uint64_t>();
  content.commit = reader.get<uint64_t>();
  const auto count = reader.get<uint16_t>();
  const auto flags = reader.get<uint16_t>();
  content.ends_batch = (flags & kFlagEndsBatch) != 0;
  content.next_segment = reader.get<uint32_t>() * kPageBytes;
  if (!reader.ok() || count > kEntriesPerPage || (flags & ~kFlagEndsBatch) != 0) {
    return std::nullopt;
  }
  content.entries = reader.take(count * kIndexEntryBytes);
  if (content.checksum != crc32c(page.subspan(kPageChecksumAt + kChecksumBytes))) {
    return std::nullopt;
  }
  return content;
}

}  // namespace vkv
