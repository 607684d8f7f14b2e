// The bytes of a store file are those of transfer/README.md, and bytes that are none of ours mean
// nothing.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/store_format.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "transfer/crc32c.h"
#include "transfer/store_index.h"

namespace vkv {
namespace {

// Bytes as README's tables give them: what is not put is zero.
class Golden {
 public:
  explicit Golden(size_t byte_count) : bytes_(byte_count) {}
  template <class T>
  void put(size_t at, T value) {
    std::memcpy(bytes_.data() + at, &value, sizeof(value));
  }
  void put_text(size_t at, const std::string& text) {
    std::memcpy(bytes_.data() + at, text.data(), text.size());
  }
  void put_range(size_t at, size_t count, uint8_t first) {
    for (size_t i = 0; i < count; ++i) put(at + i, static_cast<uint8_t>(first + i));
  }
  std::span<const std::byte> bytes() const { return bytes_; }
  bool operator==(const Golden&) const = default;

 private:
  std::vector<std::byte> bytes_;
};

bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

StoreId some_id() {
  StoreId id;
  for (size_t i = 0; i < id.size(); ++i) id[i] = static_cast<uint8_t>(0x40 + i);
  return id;
}

SequenceKey some_key(uint8_t first) {
  SequenceKey key;
  for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>(first + i);
  return key;
}

Superblock some_superblock() {
  return {.process = 77,
          .store = some_id(),
          .sequence = 9,
          .epoch = 3,
          .index_offset = 0x123000,
          .commit = 55,
          .is_closed = true};
}

IndexBatch some_batch() {
  ExtentDescriptor extent{.kind = StoredKind::kHigh,
                          .k_codec = Codec::kI8,
                          .v_codec = Codec::kI4,
                          .layer = 27,
                          .file_offset = 0x7654321000,
                          .byte_count = 0x100000,
                          .crc32c = 0xdeadbeef,
                          .block_count = 12,
                          .token_count = 1500};
  return {.erased = {some_key(0x80)},
          .saved = {{.key = some_key(0x10),
                     .token_count = 32768,
                     .generation = 0xabcdef01,
                     .saved_at = 1700000000,
                     .extents = {extent}}}};
}

TEST(store_format, a_superblock_has_the_documented_bytes) {
  Golden golden(4096);
  golden.put_text(0, "VKVSTORE");
  golden.put(8, uint32_t{1});
  golden.put(12, uint32_t{77});
  golden.put_range(16, 16, 0x40);
  golden.put(32, uint64_t{9});
  golden.put(40, uint64_t{3});
  golden.put(48, uint64_t{0x123000});
  golden.put(56, uint64_t{55});
  golden.put(64, uint32_t{2});
  golden.put(68, uint32_t{1});
  golden.put(4092, crc32c(golden.bytes().first(4092)));
  StorePage page;
  encode(some_superblock(), page);
  EXPECT_TRUE(same(page, golden.bytes()));
  EXPECT_EQ(crc32c(golden.bytes().first(4092)), 0xeda36c3u);  // by other software
  EXPECT_EQ(decode_superblock(page), some_superblock());
}

TEST(store_format, an_index_page_has_the_documented_bytes) {
  Golden golden(4096);
  golden.put_text(0, "VKVINDEX");
  golden.put(12, uint32_t{0x11223344});
  golden.put_range(16, 16, 0x40);
  golden.put(32, uint64_t{3});
  golden.put(40, uint64_t{63});
  golden.put(48, uint64_t{56});
  golden.put(56, uint16_t{3});
  golden.put(58, uint16_t{1});
  golden.put(60, uint32_t{0x200});
  golden.put(64, uint8_t{1});  // erased
  golden.put_range(64 + 16, 32, 0x80);
  golden.put(128, uint8_t{2});  // sequence
  golden.put(128 + 4, uint32_t{1});
  golden.put(128 + 8, uint32_t{32768});
  golden.put(128 + 12, uint32_t{0xabcdef01});
  golden.put_range(128 + 16, 32, 0x10);
  golden.put(128 + 48, uint64_t{1700000000});
  golden.put(192, uint8_t{3});  // extent
  golden.put(192 + 1, uint8_t{4});
  golden.put(192 + 2, uint8_t{2});
  golden.put(192 + 3, uint8_t{3});
  golden.put(192 + 4, uint32_t{27});
  golden.put(192 + 8, uint64_t{0x7654321000});
  golden.put(192 + 16, uint32_t{0x100000});
  golden.put(192 + 20, uint32_t{0xdeadbeef});
  golden.put(192 + 24, uint32_t{12});
  golden.put(192 + 28, uint32_t{1500});
  const uint32_t checksum = crc32c(golden.bytes().subspan(12));
  golden.put(8, checksum);

  const std::vector<std::byte> entries = encode_entries(some_batch());
  StorePage page;
  const IndexPage content{
      .position = {.store = some_id(), .epoch = 3, .number = 63, .before = 0x11223344},
      .commit = 56,
      .ends_batch = true,
      .next_segment = 0x200000,
      .entries = entries};
  EXPECT_EQ(encode(content, page), checksum);
  EXPECT_TRUE(same(page, golden.bytes()));

  const auto decoded = decode_page(page);
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->checksum, checksum);
  EXPECT_EQ(decoded->position.number, 63u);
  EXPECT_EQ(decoded->next_segment, 0x200000u);
  EXPECT_TRUE(decoded->ends_batch);
  EXPECT_EQ(decode_entries(decoded->entries), some_batch());
}

TEST(store_format, every_flipped_bit_of_a_page_is_noticed) {
  StorePage superblock, index;
  encode(some_superblock(), superblock);
  const std::vector<std::byte> entries = encode_entries(some_batch());
  encode({.position = {.store = some_id()}, .commit = 1, .entries = entries}, index);
  for (size_t bit = 0; bit < kPageBytes * 8; ++bit) {
    const std::byte mask{static_cast<uint8_t>(1u << bit % 8)};
    superblock[bit / 8] ^= mask;
    index[bit / 8] ^= mask;
    EXPECT_FALSE(decode_superblock(superblock).has_value()) << "bit " << bit;
    EXPECT_FALSE(decode_page(index).has_value()) << "bit " << bit;
    superblock[bit / 8] ^= mask;
    index[bit / 8] ^= mask;
  }
}

// Checksums are right, but the values are none that a store writes.
TEST(store_format, values_out_of_range_mean_nothing) {
  const std::vector<std::byte> good = encode_entries(some_batch());
  ASSERT_TRUE(decode_entries(good).has_value());
  const auto refuses = [&](size_t at, uint8_t value) {
    std::vector<std::byte> bad = good;
    bad[at] = std::byte{value};
    return !decode_entries(bad).has_value();
  };
  EXPECT_TRUE(refuses(0, 4));          // kind of entry
  EXPECT_TRUE(refuses(0, 3));          // an extent without a sequence
  EXPECT_TRUE(refuses(1, 1));          // what must be zero
  EXPECT_TRUE(refuses(64 + 4, 2));     // more extents than there are
  EXPECT_TRUE(refuses(64 + 7, 0xff));  // far more
  EXPECT_TRUE(refuses(128 + 1, 0));    // kind of extent
  EXPECT_TRUE(refuses(128 + 1, 5));
  EXPECT_TRUE(refuses(128 + 2, 6));   // codec
  EXPECT_TRUE(refuses(128 + 8, 1));   // offset between pages
  EXPECT_TRUE(refuses(128 + 15, 1));  // offset behind any file
  EXPECT_TRUE(refuses(128 + 16, 1));  // bytes between pages
  EXPECT_TRUE(refuses(128 + 18, 0));  // no bytes
  EXPECT_TRUE(refuses(128 + 63, 1));
  EXPECT_FALSE(decode_entries(std::span(good).first(128)).has_value());
  EXPECT_FALSE(decode_entries(std::span(good).first(150)).has_value());

  Superblock block = some_superblock();
  StorePage page;
  for (const uint64_t offset : {uint64_t{4096}, uint64_t{10000}, kStoreBytesMax}) {
    block.index_offset = offset;
    encode(block, page);
    EXPECT_FALSE(decode_superblock(page).has_value()) << offset;
  }
}

// An index in memory, as a disk would have it.
struct Disk {
  std::vector<std::byte> bytes = std::vector<std::byte>(8 << 20);
  Superblock superblock{.store = some_id(), .epoch = 1, .index_offset = 8192, .commit = 1};
  IndexTail tail{.next = {.store = some_id(), .epoch = 1}};
  uint64_t end = 8192;

  void commit(const IndexBatch& batch) {
    std::vector<uint64_t> segments;
    for (uint64_t i = segments_needed(tail, std::max<uint64_t>(1, page_count(batch))); i > 0; --i) {
      segments.push_back(end);
      end += kIndexSegmentBytes;
    }
    for (const PageWrite& write : append_pages(batch, segments, tail))
      std::memcpy(bytes.data() + write.file_offset, write.page.data(), kPageBytes);
  }
  LoadedIndex load() const {
    return load_index(superblock,
                      [&](uint64_t offset, std::span<std::byte> target) -> Status {
                        if (offset + target.size() > bytes.size())
                          return {Code::kDataLoss, "the end"};
                        std::memcpy(target.data(), bytes.data() + offset, target.size());
                        return {};
                      })
        .value();
  }
};

IndexBatch saves(uint8_t first) { return {.erased = {}, .saved = {{.key = some_key(first)}}}; }

TEST(store_index, pages_of_an_unfinished_commit_never_continue_another) {
  Disk disk;
  disk.commit(saves(1));
  const IndexTail tail = disk.tail;
  // A commit of three pages is cut: its first page is lost, the others are there.
  IndexBatch large = saves(2);
  large.saved[0].extents.resize(130, {.file_offset = 8192, .byte_count = 4096});
  disk.commit(large);
  std::memset(disk.bytes.data() + 8192 + 4096, 0, 4096);
  EXPECT_TRUE(disk.load().damage.ok());
  EXPECT_EQ(disk.load().tail, tail);

  // The next process writes a commit of as many pages, of which only the first arrives.
  disk.tail = tail;
  IndexBatch other = saves(3);
  other.saved[0].extents.resize(130, {.file_offset = 12288, .byte_count = 4096});
  const std::vector<std::byte> before = disk.bytes;
  disk.commit(other);
  std::memcpy(disk.bytes.data() + 8192 + 2 * 4096, before.data() + 8192 + 2 * 4096, 8192);
  const LoadedIndex loaded = disk.load();
  EXPECT_TRUE(loaded.damage.ok());
  EXPECT_EQ(loaded.sequences.size(), 1u);
  EXPECT_EQ(loaded.tail, tail);
}

TEST(store_index, a_lost_page_before_a_later_commit_is_damage) {
  Disk disk;
  for (uint8_t i = 1; i <= 6; ++i) disk.commit(saves(i));
  std::memset(disk.bytes.data() + 8192 + 3 * 4096, 0, 4096);
  const LoadedIndex loaded = disk.load();
  EXPECT_EQ(loaded.damage.code(), Code::kDataLoss);
  EXPECT_EQ(loaded.sequences.size(), 3u);
}

TEST(store_index, fewer_commits_than_the_superblock_knows_of_are_damage) {
  Disk disk;
  for (uint8_t i = 1; i <= 3; ++i) disk.commit(saves(i));
  disk.superblock.commit = 3;
  EXPECT_TRUE(disk.load().damage.ok());
  disk.superblock.commit = 4;
  EXPECT_EQ(disk.load().damage.code(), Code::kDataLoss);
  disk.superblock = {.store = some_id(), .epoch = 1, .index_offset = 8192, .commit = 2};
  EXPECT_TRUE(disk.load().damage.ok());
  disk.superblock.is_closed = true;
  EXPECT_EQ(disk.load().damage.code(), Code::kDataLoss);
}

TEST(store_index, pages_of_another_store_or_of_an_older_index_do_not_count) {
  Disk disk;
  disk.commit(saves(1));
  disk.superblock.epoch = 2;
  EXPECT_EQ(disk.load().damage.code(), Code::kDataLoss);
  EXPECT_TRUE(disk.load().sequences.empty());
  disk.superblock.epoch = 1;
  disk.superblock.store[3] ^= 1;
  EXPECT_TRUE(disk.load().sequences.empty());
}

TEST(store_index, a_commit_that_changes_what_is_not_there_is_damage) {
  Disk disk;
  disk.commit(saves(1));
  disk.commit({.erased = {some_key(9)}, .saved = {}});
  EXPECT_EQ(disk.load().damage.code(), Code::kDataLoss);
  Disk twice;
  twice.commit(saves(1));
  twice.commit(saves(1));
  EXPECT_EQ(twice.load().damage.code(), Code::kDataLoss);
}

TEST(store_index, commits_end_where_segments_end) {
  // Single pages up to the end of a segment, and one that fills it: the next is named, and read.
  for (const uint64_t commits : {63, 64, 65, 127, 128, 129}) {
    Disk disk;
    for (uint64_t i = 0; i < commits; ++i) disk.commit(saves(static_cast<uint8_t>(i)));
    const LoadedIndex loaded = disk.load();
    EXPECT_TRUE(loaded.damage.ok()) << loaded.damage.message();
    EXPECT_EQ(loaded.sequences.size(), commits);
    EXPECT_EQ(loaded.tail, disk.tail) << commits;
  }
}

}  // namespace
}  // namespace vkv
