// Pages are there when the toucher says so, with many threads, with none, and when nobody waits.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/page_toucher.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <vector>

#include "transfer/memory_pool.h"

namespace vkv {
namespace {

constexpr size_t kBytes = 64 << 10, kPages = kBytes / 4096;

bool is_resident(std::span<const std::byte> bytes) {
  std::vector<unsigned char> resident(kPages);
  VKV_CHECK(mincore(const_cast<std::byte*>(bytes.data()), bytes.size(), resident.data()) == 0);
  for (const unsigned char page : resident)
    if ((page & 1) == 0) return false;
  return true;
}

class PageToucherTest : public testing::TestWithParam<int> {
 protected:
  PageToucherTest() {
    for (int i = 0; i < 100; ++i) {
      buffers_.push_back(std::move(pool_.allocate(kBytes, "a test").value()));
      spans_.push_back(buffers_.back().bytes());
    }
  }
  MemoryPool pool_{uint64_t{64} << 20};
  std::vector<MemoryBuffer> buffers_;
  std::vector<std::span<std::byte>> spans_;
};

TEST_P(PageToucherTest, pages_are_there_after_the_wait_and_their_bytes_are_the_waiters) {
  ASSERT_FALSE(is_resident(spans_.back()));
  PageToucher toucher(spans_, GetParam());
  for (size_t i = 0; i < spans_.size(); ++i) {
    toucher.wait(i);
    EXPECT_TRUE(is_resident(spans_[i]));
    for (std::byte& byte : spans_[i]) byte = std::byte{0x5a};
  }
  for (const auto& span : spans_)
    for (const std::byte byte : span) ASSERT_EQ(byte, std::byte{0x5a});
}

TEST_P(PageToucherTest, it_may_be_gone_before_anybody_waited) {
  for (int i = 0; i < 20; ++i) {
    PageToucher toucher(spans_, GetParam());
    if (i % 2 == 0) toucher.wait(0);
  }
  PageToucher nothing({}, GetParam());
}

INSTANTIATE_TEST_SUITE_P(threads, PageToucherTest, testing::Values(0, 1, 4));

}  // namespace
}  // namespace vkv
