// Eight threads write, commit, read, cancel and erase at once, and every byte is right.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/store_driver.h"
#include "tests/temporary_directory.h"
#include "transfer/block_store.h"

namespace vkv {
namespace {

constexpr uint64_t kThreads = 8, kSteps = 60, kExtentBytesMax = 64 << 10;

// Submits reads of a whole sequence ahead, cancels some, waits for the others and compares.
void read_and_cancel(BlockStore& store, uint64_t number, std::mt19937_64& random) {
  Result<CommittedSequence> held = store.hold(key_of(number));
  if (!held.ok()) {
    EXPECT_EQ(held.status().code(), Code::kNotFound);  // erased meanwhile
    return;
  }
  std::vector<MemoryBuffer> targets;
  std::vector<IoTicket> tickets;
  for (const LabelledExtent& labelled : held.value().extents) {
    targets.push_back(
        std::move(test_memory().allocate(labelled.extent.byte_count, "a test").value()));
    tickets.push_back(
        store.submit_read(labelled.extent, targets.back().bytes(), IoPriority::kAhead).value());
  }
  for (size_t i = 0; i < tickets.size(); ++i) {
    if (random() % 3 == 0) {
      store.cancel(tickets[i]);
      continue;
    }
    while (random() % 4 == 0 && !store.ready(tickets[i])) std::this_thread::yield();
    const Status status = store.wait(tickets[i]);
    ASSERT_TRUE(status.ok()) << status.message();
    MemoryBuffer want =
        std::move(test_memory().allocate(targets[i].bytes().size(), "a test").value());
    fill(want.bytes(), number, i);
    ASSERT_EQ(std::memcmp(want.data(), targets[i].data(), want.bytes().size()), 0);
  }
  release_all(store, held.value().extents);
}

class StoreThreadsTest : public testing::TestWithParam<IoBackend> {};

TEST_P(StoreThreadsTest, eight_threads_mix_everything) {
  const TemporaryDirectory directory;
  const std::string path = directory / "kv.store";
  std::vector<std::vector<uint64_t>> kept(kThreads);
  uint64_t cancelled = 0;
  {
    const auto opened = BlockStore::open({.path = path,
                                          .use = StoreUse::kKeep,
                                          .bytes_max = 256 << 20,
                                          .io = GetParam(),
                                          .in_flight_max = 2});
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    BlockStore& store = *opened.value();
    std::atomic<uint64_t> newest = 0;
    std::vector<std::thread> threads;
    for (uint64_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937_64 random(thread);
        std::vector<uint64_t>& own = kept[thread];
        for (uint64_t step = 0; step < kSteps; ++step) {
          const uint64_t what = random() % 8;
          if (what < 2 || own.empty()) {
            const uint64_t number = thread * 1000 + step;
            const Status status = save(store, number, kExtentBytesMax);
            ASSERT_TRUE(status.ok()) << status.message();
            own.push_back(number);
            newest = number;
          } else if (what == 2) {
            std::swap(own[random() % own.size()], own.back());
            const Status status = store.erase(key_of(own.back()));
            ASSERT_TRUE(status.ok()) << status.message();
            own.pop_back();
          } else {
            // One's own, or what another may erase at any moment.
            read_and_cancel(store, what < 5 ? own[random() % own.size()] : newest.load(), random);
            (void)store.stats();
            (void)store.committed();
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    cancelled = store.stats().cancelled_count;
    EXPECT_EQ(store.stats().bytes_reserved, store.stats().bytes_committed);
  }
  EXPECT_GT(cancelled, 0u);
  const auto store = open_kept(path, 256 << 20);
  size_t count = 0;
  for (const std::vector<uint64_t>& own : kept) {
    for (const uint64_t number : own) {
      const Status status = compare(*store.value(), number, kExtentBytesMax);
      EXPECT_TRUE(status.ok()) << status.message();
      ++count;
    }
  }
  EXPECT_EQ(store.value()->committed().size(), count);
}

std::string engine_name(const testing::TestParamInfo<IoBackend>& engine) {
  return engine.param == IoBackend::kThreads ? "threads" : "best";
}

INSTANTIATE_TEST_SUITE_P(engines, StoreThreadsTest,
                         testing::Values(IoBackend::kThreads, IoBackend::kAuto), engine_name);

}  // namespace
}  // namespace vkv
