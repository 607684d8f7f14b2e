// SlabSource: pieces never overlap, slabs count, and where there is no room an error says so.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/slab_source.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace vkv {
namespace {

constexpr uint64_t kKiB = 1024;

// Addresses that nobody may touch.
class NoMemory final : public MemorySource {
 public:
  explicit NoMemory(uint64_t& mapped_bytes) : mapped_bytes_(mapped_bytes) {}
  Result<std::byte*> map(uint64_t byte_count) override {
    mapped_bytes_ += byte_count;
    next_ += uint64_t{1} << 30;
    return reinterpret_cast<std::byte*>(next_);
  }
  void unmap(std::byte*, uint64_t byte_count) override { mapped_bytes_ -= byte_count; }

 private:
  uint64_t& mapped_bytes_;
  uint64_t next_ = 0;
};

TEST(slab_source, a_pool_of_one_slab_is_full_when_the_slab_is) {
  uint64_t mapped_bytes = 0;
  auto source = std::make_unique<SlabSource>(std::make_unique<NoMemory>(mapped_bytes), 0, nullptr);
  ASSERT_TRUE(source->add_slab(64 * kKiB).ok());
  {
    MemoryPool pool(Tier::kHbm, 128 * kKiB, std::move(source));
    auto first = pool.allocate(24 * kKiB, "the first");
    auto second = pool.allocate(40 * kKiB, "the second");
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(first.value().tier(), Tier::kHbm);
    EXPECT_TRUE(first.value().bytes().end() <= second.value().bytes().begin() ||
                second.value().bytes().end() <= first.value().bytes().begin());
    const Status full = pool.allocate(4 * kKiB, "the third").status();
    EXPECT_EQ(full.code(), Code::kOutOfMemory);
    EXPECT_NE(full.message().find("hbm tier: 4096 bytes asked for the third"), std::string::npos)
        << full.message();
    EXPECT_NE(full.message().find("the largest hole has 0"), std::string::npos) << full.message();
    first = MemoryBuffer();
    EXPECT_TRUE(pool.allocate(24 * kKiB, "the first again").ok());
    EXPECT_EQ(mapped_bytes, 64 * kKiB);
  }
  EXPECT_EQ(mapped_bytes, 0u);
}

TEST(slab_source, slabs_come_when_needed_and_count_in_their_account) {
  uint64_t mapped_bytes = 0;
  MemoryPool account(100 * kKiB);
  {
    MemoryPool pool(Tier::kDram, 100 * kKiB,
                    std::make_unique<SlabSource>(std::make_unique<NoMemory>(mapped_bytes),
                                                 64 * kKiB, &account));
    std::vector<MemoryBuffer> buffers;
    for (int i = 0; i < 2; ++i) {
      auto buffer = pool.allocate(32 * kKiB, "a piece");
      ASSERT_TRUE(buffer.ok()) << buffer.status().message();
      buffers.push_back(std::move(buffer.value()));
    }
    EXPECT_EQ(account.bytes_used(), 64 * kKiB);
    // No room for another whole slab: one as large as the piece.
    EXPECT_TRUE(pool.allocate(32 * kKiB, "a piece").ok());
    EXPECT_EQ(account.bytes_used(), 96 * kKiB);
    const Status full = pool.allocate(36 * kKiB, "too much").status();
    EXPECT_EQ(full.code(), Code::kOutOfMemory);
    EXPECT_NE(full.message().find("dram tier"), std::string::npos) << full.message();
  }
  EXPECT_EQ(account.bytes_used(), 0u);
  EXPECT_EQ(mapped_bytes, 0u);
}

// What is wrong, in whatever thread, comes out where somebody needs a slab.
class LimitedMemory final : public MemorySource {
 public:
  explicit LimitedMemory(int count) : left_(count) {}
  Result<std::byte*> map(uint64_t) override {
    if (left_ == 0) return Status(Code::kOutOfMemory, "the system refuses");
    --left_;
    next_ += uint64_t{1} << 30;
    return reinterpret_cast<std::byte*>(next_);
  }
  void unmap(std::byte*, uint64_t) override {}

 private:
  int left_;
  uint64_t next_ = 0;
};

TEST(slab_source, the_next_slab_comes_while_the_last_has_room) {
  MemoryPool account(1024 * kKiB);
  {
    auto source =
        std::make_unique<SlabSource>(std::make_unique<LimitedMemory>(3), 64 * kKiB, &account);
    source->grow_ahead();
    MemoryPool pool(Tier::kDram, 1024 * kKiB, std::move(source));
    std::vector<MemoryBuffer> buffers;
    std::vector<uint64_t> charged;
    for (int i = 0; i < 7; ++i) {
      auto buffer = pool.allocate(28 * kKiB, "a piece");
      charged.push_back(account.bytes_used() / kKiB);
      if (i < 6) {
        ASSERT_TRUE(buffer.ok()) << buffer.status().message();
        buffers.push_back(std::move(buffer.value()));
      } else {
        EXPECT_EQ(buffer.status().code(), Code::kOutOfMemory);
        EXPECT_NE(buffer.status().message().find("the system refuses"), std::string::npos);
      }
    }
    // Two pieces a slab; the fourth slab is refused ahead, and again when it is needed.
    EXPECT_EQ(charged, (std::vector<uint64_t>{64, 128, 128, 192, 192, 256, 192}));
  }
  EXPECT_EQ(account.bytes_used(), 0u);
}

TEST(slab_source, what_an_account_would_miss_is_not_taken_ahead) {
  MemoryPool account(300 * kKiB);
  auto source =
      std::make_unique<SlabSource>(std::make_unique<LimitedMemory>(9), 64 * kKiB, &account);
  source->grow_ahead();
  MemoryPool pool(Tier::kDram, 300 * kKiB, std::move(source));
  auto first = pool.allocate(60 * kKiB, "a piece");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(account.bytes_used(), 64 * kKiB);
}

}  // namespace
}  // namespace vkv
