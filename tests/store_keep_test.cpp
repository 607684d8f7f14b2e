// What is committed to a store is there when it is opened again, and nothing else is; space comes
// back; damage is said to be damage.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/store_driver.h"
#include "tests/temporary_directory.h"
#include "transfer/block_store.h"
#include "transfer/store_format.h"

namespace vkv {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class StoreKeepTest : public testing::Test {
 protected:
  std::unique_ptr<BlockStore> open(uint64_t bytes_max = 64 * kMiB) {
    auto store = open_kept(path_, bytes_max);
    EXPECT_TRUE(store.ok()) << store.status().message();
    return store.ok() ? std::move(store.value()) : nullptr;
  }

  std::set<uint64_t> numbers(BlockStore& store) {
    std::set<uint64_t> all;
    for (const StoredSequence& sequence : store.committed()) all.insert(number_of(sequence.key));
    return all;
  }

  // Changes bytes of the file as a bad disk would.
  void change(uint64_t offset, const std::function<void(std::span<std::byte>)>& how,
              size_t byte_count = 4096) {
    const int file = ::open(path_.c_str(), O_RDWR);
    std::vector<std::byte> bytes(byte_count);
    ASSERT_EQ(pread(file, bytes.data(), byte_count, static_cast<off_t>(offset)),
              static_cast<ssize_t>(byte_count));
    how(bytes);
    ASSERT_EQ(pwrite(file, bytes.data(), byte_count, static_cast<off_t>(offset)),
              static_cast<ssize_t>(byte_count));
    ASSERT_EQ(fsync(file), 0);
    close(file);
  }

  TemporaryDirectory directory_;
  const std::string path_ = directory_ / "kv.store";
};

void must(const Status& status) { ASSERT_TRUE(status.ok()) << status.message(); }

void flip_a_bit(std::span<std::byte> bytes) { bytes[1234] ^= std::byte{16}; }

TEST_F(StoreKeepTest, what_was_committed_is_there_again_and_nothing_else) {
  {
    const auto store = open();
    for (uint64_t number = 1; number <= 20; ++number) must(save(*store, number));
    const auto extents = write_extents(*store, 99);  // never committed
    ASSERT_TRUE(extents.ok());
  }
  const auto store = open();
  EXPECT_EQ(store->committed().size(), 20u);
  for (uint64_t number = 1; number <= 20; ++number) must(compare(*store, number));
  EXPECT_EQ(store->hold(key_of(99)).status().code(), Code::kNotFound);
  const BlockStoreStats stats = store->stats();
  EXPECT_EQ(stats.bytes_reserved, stats.bytes_committed);

  const StoredSequence first = store->committed().front();
  EXPECT_EQ(first.generation, 5u);
  EXPECT_GT(first.saved_at, 1600000000u);
  const ExtentDescriptor& extent = first.extents.front();
  EXPECT_EQ(extent.kind, StoredKind::kLow);
  EXPECT_EQ(extent.k_codec, Codec::kI4);
  EXPECT_EQ(extent.v_codec, Codec::kI2);
  EXPECT_EQ(extent.layer, 0u);
  EXPECT_EQ(extent.block_count, 3u);
  EXPECT_EQ(extent.token_count, 300u);
}

TEST_F(StoreKeepTest, saving_again_under_a_key_replaces_and_erasing_frees) {
  uint64_t bytes_before = 0;
  {
    const auto store = open();
    must(save(*store, 1));
    bytes_before = store->stats().bytes_committed;
    must(save(*store, 2));
    must(save(*store, 2));
    must(compare(*store, 2));
    must(store->erase(key_of(2)));
    EXPECT_EQ(store->stats().bytes_reserved, bytes_before);
    EXPECT_EQ(store->erase(key_of(2)).code(), Code::kNotFound);
  }
  const auto store = open();
  EXPECT_EQ(numbers(*store), std::set<uint64_t>{1});
  EXPECT_EQ(store->stats().bytes_reserved, bytes_before);
  must(compare(*store, 1));
}

TEST_F(StoreKeepTest, sequences_share_extents_until_the_last_is_erased) {
  {
    const auto store = open();
    const auto extents = write_extents(*store, 7);
    for (const uint64_t key : {1000, 1001, 1002})
      must(store->commit({.key = key_of(key), .token_count = 7, .extents = extents.value()}));
    release_all(*store, extents.value());
    must(store->erase(key_of(1001)));
  }
  auto store = open();
  const uint64_t bytes = store->stats().bytes_committed;
  must(store->erase(key_of(1000)));
  EXPECT_EQ(store->stats().bytes_committed, bytes);
  const CommittedSequence held = store->hold(key_of(1002)).value();
  must(store->erase(key_of(1002)));
  EXPECT_EQ(store->stats().bytes_committed, 0u);
  EXPECT_EQ(store->stats().bytes_reserved, bytes);  // still held
  release_all(*store, held.extents);
  EXPECT_EQ(store->stats().bytes_reserved, 0u);
  const uint64_t index = store->superblock().index_offset;
  store.reset();  // gives back what lies behind the last thing that counts
  EXPECT_EQ(std::filesystem::file_size(path_), index + kIndexSegmentBytes);
}

TEST_F(StoreKeepTest, many_commits_write_the_index_anew_and_lose_nothing) {
  std::set<uint64_t> kept;
  uint64_t epoch = 0;
  for (int session = 0; session < 3; ++session) {
    const auto store = open();
    EXPECT_EQ(numbers(*store), kept);
    EXPECT_GE(store->superblock().epoch, epoch);
    epoch = store->superblock().epoch;
    for (uint64_t i = 0; i < 400; ++i) {
      const uint64_t number = static_cast<uint64_t>(session) * 1000 + i;
      must(save(*store, number, 8192));
      kept.insert(number);
      if (i % 40 == 0) continue;
      must(store->erase(key_of(number)));
      kept.erase(number);
    }
    EXPECT_LE(store->stats().index_bytes, kExtentsBegin + 6 * kIndexSegmentBytes);
  }
  EXPECT_GE(epoch, 3u);
  const auto store = open();
  EXPECT_EQ(numbers(*store), kept);
  for (const uint64_t number : kept) must(compare(*store, number, 8192));
}

TEST_F(StoreKeepTest, a_batch_longer_than_a_segment_of_the_index_comes_back) {
  constexpr uint64_t kExtents = 2 * kIndexSegmentPages * kEntriesPerPage + 5;
  {
    const auto store = open();
    must(save(*store, 1));
    std::vector<LabelledExtent> extents;
    MemoryBuffer buffer = std::move(test_memory().allocate(4096, "a test").value());
    for (uint64_t i = 0; i < kExtents; ++i) {
      fill(buffer.bytes(), i, 0);
      extents.push_back({store->reserve(4096).value(), {}});
      must(store->wait(store->submit_write(extents.back().extent, buffer.bytes()).value()));
    }
    must(store->commit({.key = key_of(2), .extents = extents}));
    must(save(*store, 3));
  }
  const auto store = open();
  EXPECT_EQ(numbers(*store), (std::set<uint64_t>{1, 2, 3}));
  EXPECT_EQ(store->hold(key_of(2)).value().extents.size(), kExtents);
  must(compare(*store, 3));
}

TEST_F(StoreKeepTest, a_full_store_says_so_and_can_still_erase) {
  const auto store = open(2 * kMiB);
  uint64_t number = 0;
  Status status;
  while (status.ok()) status = save(*store, ++number);
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_TRUE(contains(status.message(), "nvme tier")) << status.message();
  for (uint64_t saved = 1; saved < number; ++saved) must(compare(*store, saved));
  must(store->health());
  must(store->erase(key_of(1)));
  for (uint64_t saved = 2; saved < number; ++saved) must(store->erase(key_of(saved)));
  must(save(*store, number));
  EXPECT_LE(std::filesystem::file_size(path_), 2 * kMiB);
}

TEST_F(StoreKeepTest, a_damaged_extent_is_data_loss_and_others_are_not) {
  {
    const auto store = open();
    must(save(*store, 1));
    must(save(*store, 2));
    must(save(*store, 3));
  }
  uint64_t offset = 0;
  {
    const auto store = open();
    const CommittedSequence held = store->hold(key_of(2)).value();
    offset = held.extents.back().extent.file_offset;
    release_all(*store, held.extents);
  }
  change(offset, flip_a_bit);
  const auto store = open();
  must(compare(*store, 1));
  const Status status = compare(*store, 2);
  EXPECT_EQ(status.code(), Code::kDataLoss) << status.message();
  EXPECT_TRUE(contains(status.message(), "at offset " + std::to_string(offset)));
  must(compare(*store, 3));
}

TEST_F(StoreKeepTest, extents_that_changed_places_are_data_loss) {
  {
    const auto store = open();
    must(save(*store, 1));
  }
  std::vector<StoreExtent> extents;
  {
    const auto store = open();
    MemoryBuffer buffer = std::move(test_memory().allocate(8192, "a test").value());
    std::vector<LabelledExtent> labelled(2);
    for (LabelledExtent& extent : labelled) {
      fill(buffer.bytes(), extents.size(), 77);
      extent.extent = store->reserve(8192).value();
      must(store->wait(store->submit_write(extent.extent, buffer.bytes()).value()));
      extents.push_back(extent.extent);
    }
    must(store->commit({.key = key_of(2), .extents = labelled}));
  }
  std::vector<std::byte> first(8192);
  change(
      extents[0].file_offset, [&](auto bytes) { std::copy_n(bytes.begin(), 8192, first.begin()); },
      8192);
  change(
      extents[1].file_offset,
      [&](auto bytes) {
        std::vector<std::byte> second(bytes.begin(), bytes.end());
        std::copy_n(first.begin(), 8192, bytes.begin());
        first = second;
      },
      8192);
  change(
      extents[0].file_offset, [&](auto bytes) { std::copy_n(first.begin(), 8192, bytes.begin()); },
      8192);
  const auto store = open();
  const CommittedSequence held = store->hold(key_of(2)).value();
  MemoryBuffer target = std::move(test_memory().allocate(8192, "a test").value());
  for (const LabelledExtent& extent : held.extents)
    EXPECT_EQ(store->wait(store->submit_read(extent.extent, target.bytes()).value()).code(),
              Code::kDataLoss);
}

TEST_F(StoreKeepTest, either_copy_of_the_superblock_is_enough_and_none_is_data_loss) {
  {
    const auto store = open();
    must(save(*store, 1));
  }
  for (const uint64_t copy : {0, 1}) {
    change(copy * kPageBytes, flip_a_bit);
    const auto store = open();  // which writes both anew
    must(compare(*store, 1));
  }
  change(0, [](auto bytes) { std::fill(bytes.begin(), bytes.end(), std::byte{0}); });
  must(compare(*open(), 1));

  change(0, flip_a_bit);
  change(kPageBytes, flip_a_bit);
  const Status status = open_kept(path_).status();
  EXPECT_EQ(status.code(), Code::kDataLoss);
  EXPECT_TRUE(contains(status.message(), "no copy of its superblock is whole")) << status.message();
}

TEST_F(StoreKeepTest, a_damaged_index_is_data_loss_and_the_file_is_left_as_it_is) {
  for (const uint64_t page : {0, 1, 4}) {
    std::filesystem::remove(path_);
    {
      const auto store = open();
      for (uint64_t number = 1; number <= 5; ++number) must(save(*store, number));
    }
    const uint64_t index = open()->superblock().index_offset;
    change(index + page * kPageBytes, flip_a_bit);
    const auto time = std::filesystem::last_write_time(path_);
    const Status status = open_kept(path_).status();
    EXPECT_EQ(status.code(), Code::kDataLoss) << "page " << page;
    EXPECT_TRUE(contains(status.message(), "index of the store is damaged")) << status.message();
    EXPECT_TRUE(contains(status.message(), "vkv inspect")) << status.message();

    const auto reader = BlockStore::open({.path = path_, .use = StoreUse::kReadOnly});
    ASSERT_TRUE(reader.ok()) << reader.status().message();
    EXPECT_EQ(reader.value()->health().code(), Code::kDataLoss);
    EXPECT_EQ(numbers(*reader.value()).size(), page);  // those before it
    EXPECT_EQ(std::filesystem::last_write_time(path_), time);
  }
}

TEST_F(StoreKeepTest, a_truncated_file_is_data_loss) {
  {
    const auto store = open();
    for (uint64_t number = 1; number <= 5; ++number) must(save(*store, number));
  }
  const uint64_t bytes = std::filesystem::file_size(path_);
  for (const uint64_t cut : {bytes - 4096, bytes / 2, kExtentsBegin, kPageBytes, uint64_t{100}}) {
    std::filesystem::resize_file(path_, cut);
    const Status status = open_kept(path_).status();
    EXPECT_EQ(status.code(), Code::kDataLoss) << cut << ": " << status.message();
  }
}

TEST_F(StoreKeepTest, readers_share_a_store_and_its_owner_does_not) {
  {
    const auto store = open();
    must(save(*store, 1));
    const auto reader = BlockStore::open({.path = path_, .use = StoreUse::kReadOnly});
    EXPECT_EQ(reader.status().code(), Code::kInvalidArgument);
    EXPECT_TRUE(
        contains(reader.status().message(), "is in use by process " + std::to_string(getpid())));
    EXPECT_EQ(open_kept(path_).status().code(), Code::kInvalidArgument);
  }
  const auto first = BlockStore::open({.path = path_, .use = StoreUse::kReadOnly});
  const auto second = BlockStore::open({.path = path_, .use = StoreUse::kReadOnly});
  ASSERT_TRUE(first.ok() && second.ok());
  must(compare(*first.value(), 1));
  must(compare(*second.value(), 1));
  EXPECT_EQ(first.value()->reserve(4096).status().code(), Code::kUnsupported);
  EXPECT_EQ(first.value()->erase(key_of(1)).code(), Code::kUnsupported);
  EXPECT_EQ(first.value()->commit({.key = key_of(2)}).code(), Code::kUnsupported);
  EXPECT_EQ(open_kept(path_).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(
      BlockStore::open({.path = directory_ / "none", .use = StoreUse::kReadOnly}).status().code(),
      Code::kNotFound);
}

TEST_F(StoreKeepTest, a_temporary_store_keeps_nothing_and_takes_no_kept_file) {
  {
    const auto store = open();
    must(save(*store, 1));
  }
  const Status refused = BlockStore::open({.path = path_, .bytes_max = 64 * kMiB}).status();
  EXPECT_EQ(refused.code(), Code::kInvalidArgument);
  EXPECT_TRUE(contains(refused.message(), "is a store that is kept")) << refused.message();
  must(compare(*open(), 1));

  const auto temporary =
      BlockStore::open({.path = directory_ / "temporary", .bytes_max = 64 * kMiB});
  EXPECT_EQ(save(*temporary.value(), 1).code(), Code::kUnsupported);
  EXPECT_EQ(temporary.value()->stats().bytes_reserved, 0u);
}

TEST_F(StoreKeepTest, what_a_broken_creation_left_is_no_obstacle_and_a_foreign_file_is) {
  std::ofstream(path_ + ".new");
  must(save(*open(), 1));
  EXPECT_FALSE(std::filesystem::exists(path_ + ".new"));
  std::filesystem::remove(path_);
  std::ofstream(path_ + ".new") << "a letter";
  const Status status = open_kept(path_).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_TRUE(contains(status.message(), "is in the way of a new store")) << status.message();
}

// In the middle of the file too; a step of growing is kept, so that what comes and goes costs no
// calls.
TEST(store_room, what_is_erased_is_given_back_to_the_disk) {
  const TemporaryDirectory directory;
  const std::string path = directory / "kv.store";
  constexpr uint64_t kExtent = uint64_t{1} << 20, kBytesMax = uint64_t{32} << 20;
  MemoryBuffer bytes = std::move(test_memory().allocate(kExtent, "a test").value());
  fill(bytes.bytes(), 1, 1);
  const auto save_one = [&](BlockStore& store, uint64_t number) {
    CommittedSequence sequence{.key = key_of(number)};
    for (int i = 0; i < 2; ++i) {
      sequence.extents.push_back({.extent = store.reserve(kExtent).value()});
      StoreExtent& extent = sequence.extents.back().extent;
      ASSERT_TRUE(store.wait(store.submit_write(extent, bytes.bytes()).value()).ok());
    }
    ASSERT_TRUE(store.commit(sequence).ok());
    release_all(store, sequence.extents);
  };
  uint64_t disk_bytes = 0;
  {
    const auto store = open_kept(path, kBytesMax);
    for (uint64_t number = 0; number < 10; ++number) save_one(*store.value(), number);
    const uint64_t full = store.value()->stats().disk_bytes;
    EXPECT_GE(full, 20 * kExtent);
    for (uint64_t number = 1; number < 9; ++number)
      ASSERT_TRUE(store.value()->erase(key_of(number)).ok());
    const BlockStoreStats stats = store.value()->stats();
    EXPECT_EQ(stats.bytes_committed, 4 * kExtent);
    EXPECT_GE(stats.file_bytes, 20 * kExtent);  // the last one lies at the end
    EXPECT_LE(stats.disk_bytes + stats.given_back_bytes, full + 64 * 4096);
    // What lives, a step of an eighth of the budget, and the index.
    EXPECT_LE(stats.disk_bytes, 4 * kExtent + kBytesMax / 8 + 2 * kExtent);
    for (uint64_t number = 20; number < 26; ++number) save_one(*store.value(), number);
    EXPECT_GE(store.value()->stats().disk_bytes, 16 * kExtent);
    EXPECT_EQ(store.value()->stats().file_bytes, stats.file_bytes);  // the holes were used
    for (uint64_t number = 20; number < 26; ++number)
      ASSERT_TRUE(store.value()->erase(key_of(number)).ok());
  }
  const auto store = open_kept(path, kBytesMax);
  disk_bytes = store.value()->stats().disk_bytes;
  EXPECT_LE(disk_bytes, 4 * kExtent + kExtent);  // at close all is given back
  for (const uint64_t number : {0, 9}) {
    const CommittedSequence held = store.value()->hold(key_of(number)).value();
    for (const LabelledExtent& labelled : held.extents) {
      MemoryBuffer got = std::move(test_memory().allocate(kExtent, "a test").value());
      const Status status =
          store.value()->wait(store.value()->submit_read(labelled.extent, got.bytes()).value());
      EXPECT_TRUE(status.ok()) << status.message();
    }
    release_all(*store.value(), held.extents);
  }
  for (uint64_t number = 30; number < 36; ++number) save_one(*store.value(), number);
}

// Bytes asked for and bytes written, of this process and of all before it, killed or not.
TEST(store_writes, amplification_is_counted_over_the_life_of_the_file) {
  const TemporaryDirectory directory;
  const std::string path = directory / "kv.store";
  constexpr uint64_t kPayload = 100000, kRounded = 102400;
  const auto save_one = [&](BlockStore& store, uint64_t number) {
    MemoryBuffer bytes = std::move(test_memory().allocate(kRounded, "a test").value());
    std::memset(bytes.data(), 1, kRounded);
    CommittedSequence sequence{.key = key_of(number)};
    sequence.extents.push_back({.extent = store.reserve(kPayload).value()});
    StoreExtent& extent = sequence.extents.back().extent;
    ASSERT_EQ(extent.byte_count, kRounded);
    ASSERT_TRUE(store.wait(store.submit_write(extent, bytes.bytes()).value()).ok());
    ASSERT_TRUE(store.commit(sequence).ok());
    release_all(store, sequence.extents);
  };
  {
    const auto store = open_kept(path);
    for (uint64_t number = 0; number < 3; ++number) save_one(*store.value(), number);
    const BlockStoreStats stats = store.value()->stats();
    EXPECT_EQ(stats.payload_bytes, 3 * kPayload);
    EXPECT_EQ(stats.written_bytes, 3 * kRounded);
    EXPECT_GE(stats.index_written_bytes, 3 * kPageBytes);
    EXPECT_EQ(stats.write_bytes_left, kNoWriteLimit);
    EXPECT_EQ(stats.life_payload_bytes, 3 * kPayload);
    EXPECT_EQ(stats.life_written_bytes, 3 * kRounded + stats.index_written_bytes);
  }
  const auto store = open_kept(path);
  save_one(*store.value(), 9);
  const BlockStoreStats stats = store.value()->stats();
  EXPECT_EQ(stats.payload_bytes, kPayload);
  if (stats.life_payload_bytes == kPayload)
    GTEST_SKIP() << "this file system keeps no attributes of files";
  EXPECT_EQ(stats.life_payload_bytes, 4 * kPayload);
  EXPECT_GT(stats.life_written_bytes, 4 * kRounded + stats.index_written_bytes);
}

TEST(store_writes, a_spent_budget_refuses_writes_and_nothing_else) {
  const TemporaryDirectory directory;
  const std::string path = directory / "kv.store";
  const BlockStoreOptions options{.path = path,
                                  .use = StoreUse::kKeep,
                                  .bytes_max = 64 << 20,
                                  .write_bytes_per_day = uint64_t{1} << 20};
  uint64_t saved = 0;
  {
    const auto store = BlockStore::open(options);
    ASSERT_TRUE(store.ok()) << store.status().message();
    Status status;
    while (status.ok()) status = save(*store.value(), ++saved);
    EXPECT_EQ(status.code(), Code::kOutOfMemory);
    EXPECT_NE(status.message().find("write budget of 1048576 bytes a day has "), std::string::npos)
        << status.message();
    EXPECT_TRUE(store.value()->writes_are_short());
    EXPECT_LE(store.value()->stats().written_bytes, uint64_t{1} << 20);
    ASSERT_GT(saved, 2u);
    for (uint64_t number = 1; number < saved; ++number) {
      const Status compared = compare(*store.value(), number);
      EXPECT_TRUE(compared.ok()) << compared.message();
    }
    EXPECT_TRUE(store.value()->erase(key_of(1)).ok());
    EXPECT_TRUE(store.value()->health().ok());
  }
  // A new process does not begin a new day.
  const auto store = BlockStore::open(options);
  if (store.value()->stats().life_payload_bytes == 0)
    GTEST_SKIP() << "this file system keeps no attributes of files";
  EXPECT_TRUE(store.value()->writes_are_short());
  EXPECT_LT(store.value()->stats().write_bytes_left, uint64_t{512} << 10);
}

}  // namespace
}  // namespace vkv
