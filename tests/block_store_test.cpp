// The block store gives back what was written, or says why not, on each engine.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/block_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/temporary_directory.h"
#include "transfer/memory_pool.h"

namespace vkv {
namespace {

constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB;

MemoryBuffer filled(MemoryPool& pool, uint64_t byte_count, uint64_t seed) {
  MemoryBuffer buffer = std::move(pool.allocate(byte_count, "a test").value());
  std::mt19937_64 random(seed);
  for (size_t i = 0; i + 8 <= buffer.bytes().size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(buffer.data() + i, &word, 8);
  }
  return buffer;
}

bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

class BlockStoreTest : public testing::TestWithParam<IoBackend> {
 protected:
  std::unique_ptr<BlockStore> open(uint64_t bytes_max, uint32_t in_flight_max = 64) {
    auto store = BlockStore::open(
        {.path = path_, .bytes_max = bytes_max, .io = GetParam(), .in_flight_max = in_flight_max});
    EXPECT_TRUE(store.ok()) << store.status().message();
    return std::move(store.value());
  }

  // Reserves, writes and waits.
  StoreExtent written(BlockStore& store, const MemoryBuffer& buffer) {
    StoreExtent extent = store.reserve(buffer.bytes().size()).value();
    const IoTicket ticket = store.submit_write(extent, buffer.bytes()).value();
    const Status status = store.wait(ticket);
    EXPECT_TRUE(status.ok()) << status.message();
    return extent;
  }

  // Reads into poison and waits.
  Status read(BlockStore& store, const StoreExtent& extent, MemoryBuffer& buffer) {
    std::memset(buffer.data(), 0xff, buffer.bytes().size());
    const IoTicket ticket = store.submit_read(extent, buffer.bytes()).value();
    return store.wait(ticket);
  }

  TemporaryDirectory directory_;
  const std::string path_ = directory_ / "kv.store";
  MemoryPool pool_{256 * kMiB};
};

TEST_P(BlockStoreTest, extents_of_odd_sizes_come_back_in_any_order) {
  const auto store = open(64 * kMiB);
  std::mt19937_64 random(7);
  std::vector<MemoryBuffer> sources;
  std::vector<StoreExtent> extents;
  std::vector<IoTicket> tickets;
  for (uint64_t i = 0; i < 100; ++i) {
    sources.push_back(filled(pool_, 1 + random() % (512 * kKiB), i));
    extents.push_back(store->reserve(sources[i].bytes().size()).value());
    EXPECT_EQ(extents[i].file_offset % 4096, 0u);
    tickets.push_back(store->submit_write(extents[i], sources[i].bytes()).value());
  }
  std::shuffle(tickets.begin(), tickets.end(), random);
  for (const IoTicket ticket : tickets) ASSERT_TRUE(store->wait(ticket).ok());

  std::vector<size_t> order(extents.size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  std::vector<MemoryBuffer> targets(extents.size());
  std::vector<IoTicket> reads(extents.size());
  for (const size_t i : order) {
    targets[i] = filled(pool_, extents[i].byte_count, 12345);
    reads[i] = store->submit_read(extents[i], targets[i].bytes()).value();
  }
  for (size_t i = 0; i < extents.size(); ++i) {
    const Status status = store->wait(reads[i]);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(same(sources[i].bytes(), targets[i].bytes())) << "extent " << i;
  }
  const BlockStoreStats stats = store->stats();
  EXPECT_EQ(stats.read_count, 100u);
  EXPECT_EQ(stats.write_count, 100u);
  EXPECT_EQ(stats.read_bytes, stats.bytes_reserved);
  EXPECT_EQ(stats.written_bytes, stats.bytes_peak);
}

TEST_P(BlockStoreTest, threads_write_read_and_release_at_once) {
  const auto store = open(32 * kMiB, 4);
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      std::vector<std::pair<StoreExtent, MemoryBuffer>> held;
      for (uint64_t step = 0; step < 60; ++step) {
        MemoryBuffer buffer = filled(pool_, 1 + random() % (256 * kKiB), thread * 1000 + step);
        const StoreExtent extent = written(*store, buffer);
        held.emplace_back(extent, std::move(buffer));
        std::swap(held[random() % held.size()], held.back());
        MemoryBuffer target = filled(pool_, held.back().first.byte_count, 99);
        const IoTicket ticket = store->submit_read(held.back().first, target.bytes()).value();
        while (step % 3 == 0 && !store->ready(ticket)) std::this_thread::yield();
        const Status status = store->wait(ticket);
        ASSERT_TRUE(status.ok()) << status.message();
        ASSERT_TRUE(same(held.back().second.bytes(), target.bytes()));
        if (held.size() < 10) continue;
        store->release(held.back().first);
        held.pop_back();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(BlockStoreTest, a_write_outlives_the_thread_that_submitted_it) {
  const auto store = open(64 * kMiB);
  const MemoryBuffer source = filled(pool_, 8 * kMiB, 3);
  StoreExtent extent = store->reserve(8 * kMiB).value();
  IoTicket ticket = IoTicket::kNone;
  std::thread([&] { ticket = store->submit_write(extent, source.bytes()).value(); }).join();
  const Status status = store->wait(ticket);
  ASSERT_TRUE(status.ok()) << status.message();
  MemoryBuffer target = filled(pool_, 8 * kMiB, 4);
  EXPECT_TRUE(read(*store, extent, target).ok());
  EXPECT_TRUE(same(source.bytes(), target.bytes()));
}

TEST_P(BlockStoreTest, more_submissions_than_may_be_in_flight_do_not_block_for_ever) {
  const auto store = open(64 * kMiB, 2);
  const MemoryBuffer source = filled(pool_, 64 * kKiB, 1);
  std::vector<StoreExtent> extents(50);
  std::vector<IoTicket> tickets;
  for (StoreExtent& extent : extents) {
    extent = store->reserve(64 * kKiB).value();
    tickets.push_back(store->submit_write(extent, source.bytes()).value());
  }
  for (const IoTicket ticket : tickets) EXPECT_TRUE(store->wait(ticket).ok());
}

TEST_P(BlockStoreTest, closing_drains_what_nobody_waited_for) {
  MemoryBuffer target = filled(pool_, 4 * kMiB, 2);
  {
    const auto store = open(64 * kMiB);
    const MemoryBuffer source = filled(pool_, 4 * kMiB, 1);
    const StoreExtent extent = written(*store, source);
    ASSERT_TRUE(store->submit_read(extent, target.bytes()).ok());
  }
  EXPECT_NE(access(path_.c_str(), F_OK), 0);  // and the file is gone
}

TEST_P(BlockStoreTest, a_flipped_bit_on_disk_is_data_loss_and_names_the_offset) {
  const auto store = open(64 * kMiB);
  const MemoryBuffer source = filled(pool_, 128 * kKiB, 1);
  const StoreExtent good = written(*store, source), bad = written(*store, source);
  const int file = ::open(path_.c_str(), O_RDWR);
  char byte = 0;
  const auto offset = static_cast<off_t>(bad.file_offset + 77777);
  ASSERT_EQ(pread(file, &byte, 1, offset), 1);
  byte ^= 4;
  ASSERT_EQ(pwrite(file, &byte, 1, offset), 1);
  ASSERT_EQ(fsync(file), 0);
  close(file);

  MemoryBuffer target = filled(pool_, 128 * kKiB, 2);
  EXPECT_TRUE(read(*store, good, target).ok());
  const Status status = read(*store, bad, target);
  EXPECT_EQ(status.code(), Code::kDataLoss);
  EXPECT_NE(status.message().find("at offset " + std::to_string(bad.file_offset)),
            std::string::npos)
      << status.message();
}

TEST_P(BlockStoreTest, an_extent_that_was_never_written_is_data_loss) {
  const auto store = open(64 * kMiB);
  const StoreExtent extent = store->reserve(64 * kKiB).value();
  MemoryBuffer target = filled(pool_, 64 * kKiB, 2);
  EXPECT_EQ(read(*store, extent, target).code(), Code::kDataLoss);
}

TEST_P(BlockStoreTest, a_truncated_file_is_data_loss_and_does_not_hang) {
  const auto store = open(64 * kMiB);
  const MemoryBuffer source = filled(pool_, 256 * kKiB, 1);
  const StoreExtent first = written(*store, source), second = written(*store, source);
  MemoryBuffer target = filled(pool_, 256 * kKiB, 2);
  for (const uint64_t cut : {uint64_t{8192}, uint64_t{1000}, uint64_t{0}}) {
    ASSERT_EQ(truncate(path_.c_str(), static_cast<off_t>(second.file_offset + cut)), 0);
    const Status status = read(*store, second, target);
    EXPECT_EQ(status.code(), Code::kDataLoss);
    EXPECT_NE(status.message().find("truncated"), std::string::npos) << status.message();
  }
  EXPECT_TRUE(read(*store, first, target).ok());
  EXPECT_TRUE(same(source.bytes(), target.bytes()));
}

TEST_P(BlockStoreTest, the_budget_is_hard_and_release_makes_room) {
  const auto store = open(2 * kMiB);
  std::vector<StoreExtent> extents;
  while (true) {
    auto extent = store->reserve(300 * kKiB);
    if (!extent.ok()) break;
    extents.push_back(extent.value());
  }
  EXPECT_EQ(extents.size(), 6u);
  const Status full = store->reserve(300 * kKiB).status();
  EXPECT_EQ(full.code(), Code::kOutOfMemory);
  EXPECT_EQ(full.message(),
            "nvme tier: 307200 bytes asked for, 1843200 in use, the budget is 2097152, the "
            "largest free range 245760; raise the NVMe budget or use less");
  EXPECT_EQ(store->reserve(UINT64_MAX - 100).status().code(), Code::kOutOfMemory);
  EXPECT_EQ(store->reserve(0).status().code(), Code::kInvalidArgument);

  store->release(extents[2]);
  store->release(extents[3]);
  EXPECT_TRUE(store->reserve(600 * kKiB).ok());  // the two holes became one
  EXPECT_EQ(store->stats().bytes_reserved, 6 * 300 * kKiB);
  EXPECT_LE(std::filesystem::file_size(path_), 2 * kMiB);
}

TEST_P(BlockStoreTest, the_engine_that_was_asked_for_is_used) {
  const auto store = open(64 * kMiB);
  const std::string_view expected = GetParam() == IoBackend::kUring ? "io_uring" : "threads";
  EXPECT_TRUE(store->io_engine().starts_with(expected)) << store->io_engine();
}

using BlockStoreDeathTest = BlockStoreTest;

TEST_P(BlockStoreDeathTest, misuse_stops_the_process) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto store = open(64 * kMiB);
  const MemoryBuffer source = filled(pool_, 64 * kKiB, 1);
  StoreExtent extent = store->reserve(64 * kKiB).value();
  const IoTicket ticket = store->submit_write(extent, source.bytes()).value();
  EXPECT_DEATH(store->release(extent), "check failed");  // in flight
  ASSERT_TRUE(store->wait(ticket).ok());
  EXPECT_DEATH((void)store->wait(ticket), "check failed");  // twice
  EXPECT_DEATH((void)store->wait(IoTicket::kNone), "check failed");
  EXPECT_DEATH((void)store->submit_read(extent, source.bytes().first(4096)), "check failed");
  store->release(extent);
  EXPECT_DEATH(store->release(extent), "check failed");
  EXPECT_DEATH((void)store->submit_read(extent, source.bytes()), "check failed");
}

std::string engine_name(const testing::TestParamInfo<IoBackend>& info) {
  return info.param == IoBackend::kUring ? "uring" : "threads";
}

// Where io_uring is refused (many containers), its half is left out; io_fallback_test covers that.
std::vector<IoBackend> engines_here() {
  const TemporaryDirectory directory;
  const bool has_uring =
      BlockStore::open({.path = directory / "probe", .bytes_max = kMiB, .io = IoBackend::kUring})
          .ok();
  std::vector<IoBackend> engines = {IoBackend::kThreads};
  if (has_uring) engines.push_back(IoBackend::kUring);
  return engines;
}

INSTANTIATE_TEST_SUITE_P(engines, BlockStoreTest, testing::ValuesIn(engines_here()), engine_name);
INSTANTIATE_TEST_SUITE_P(engines, BlockStoreDeathTest, testing::ValuesIn(engines_here()),
                         engine_name);

}  // namespace
}  // namespace vkv
