// The DRAM pool never hands out more than its budget, and gives back what is returned.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/memory_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace vkv {
namespace {

constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB;

TEST(memory_pool, a_buffer_is_aligned_writable_and_rounded_up) {
  MemoryPool pool(kMiB);
  auto buffer = pool.allocate(5000, "a test");
  ASSERT_TRUE(buffer.ok()) << buffer.status().message();
  EXPECT_EQ(buffer.value().bytes().size(), 8192u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.value().data()) % 4096, 0u);
  std::memset(buffer.value().data(), 0xff, buffer.value().bytes().size());
  EXPECT_EQ(pool.bytes_used(), 8192u);
}

TEST(memory_pool, the_budget_is_hard_and_what_is_returned_can_be_had_again) {
  MemoryPool pool(64 * kKiB);
  auto first = pool.allocate(40 * kKiB, "the first");
  ASSERT_TRUE(first.ok());
  const Status full = pool.allocate(28 * kKiB, "the second").status();
  EXPECT_EQ(full.code(), Code::kOutOfMemory);
  EXPECT_EQ(full.message(),
            "dram tier: 28672 bytes asked for the second, 40960 bytes in use, the budget is 65536 "
            "bytes; raise the DRAM budget or use less");
  EXPECT_TRUE(pool.allocate(24 * kKiB, "what is left").ok());
  first = MemoryBuffer();
  EXPECT_EQ(pool.bytes_used(), 0u);
  EXPECT_EQ(pool.bytes_peak(), 64 * kKiB);
  // Of another size than what was returned: what the pool kept must make way.
  EXPECT_TRUE(pool.allocate(64 * kKiB, "all of it").ok());
}

TEST(memory_pool, charges_count_like_buffers) {
  MemoryPool pool(64 * kKiB);
  { const auto buffer = pool.allocate(32 * kKiB, "kept by the pool afterwards"); }
  ASSERT_TRUE(pool.charge(60 * kKiB, "tables").ok());
  EXPECT_EQ(pool.allocate(8 * kKiB, "a buffer").status().code(), Code::kOutOfMemory);
  EXPECT_EQ(pool.charge(5 * kKiB, "more tables").code(), Code::kOutOfMemory);
  pool.discharge(60 * kKiB);
  EXPECT_TRUE(pool.allocate(8 * kKiB, "a buffer").ok());
}

TEST(memory_pool, memory_that_the_system_refuses_is_an_error) {
  MemoryPool pool(std::numeric_limits<uint64_t>::max());
  const Status status = pool.allocate(uint64_t{1} << 60, "far too much").status();
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_NE(status.message().find("the system refuses 1152921504606846976 bytes"),
            std::string::npos)
      << status.message();
  EXPECT_EQ(pool.bytes_used(), 0u);
  EXPECT_EQ(pool.allocate(std::numeric_limits<uint64_t>::max() - 5, "all there is").status().code(),
            Code::kOutOfMemory);
}

TEST(memory_pool, nothing_is_not_an_amount) {
  MemoryPool pool(kMiB);
  EXPECT_EQ(pool.allocate(0, "nothing").status().code(), Code::kInvalidArgument);
}

TEST(memory_pool, threads_share_a_budget_and_never_each_others_memory) {
  MemoryPool pool(4 * kMiB);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&pool, thread] {
      std::mt19937 random(static_cast<uint32_t>(thread));
      std::vector<std::pair<MemoryBuffer, uint8_t>> held;
      for (int step = 0; step < 500; ++step) {
        if (held.size() > 4) {
          const auto [buffer, mark] = std::move(held.front());
          held.erase(held.begin());
          const auto count =
              std::count(buffer.bytes().begin(), buffer.bytes().end(), std::byte{mark});
          ASSERT_EQ(static_cast<size_t>(count), buffer.bytes().size());
        }
        auto buffer = pool.allocate(4096 * (1 + random() % 64), "a thread");
        EXPECT_LE(pool.bytes_used(), pool.bytes_max());
        if (!buffer.ok()) continue;
        const auto mark = static_cast<uint8_t>(random());
        std::memset(buffer.value().data(), mark, buffer.value().bytes().size());
        held.emplace_back(std::move(buffer.value()), mark);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool.bytes_used(), 0u);
}

TEST(memory_pool_death, a_buffer_that_outlives_its_pool_stops_the_process) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        auto pool = std::make_unique<MemoryPool>(kMiB);
        const auto buffer = pool->allocate(4096, "too long");
        pool.reset();
      },
      "check failed");
}

}  // namespace
}  // namespace vkv
