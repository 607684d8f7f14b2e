// Where a kernel refuses a set-up of io_uring the next is taken, and in the end threads; where it
// refuses a part, or breaks, every request still ends. Calls of liburing go through this file
// (ld --wrap). SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "tests/store_driver.h"
#include "tests/temporary_directory.h"
#include "transfer/block_store.h"
#include "transfer/io_engine.h"

namespace {

// The kernel that is played: which flags it knows, and what it does of the rest.
struct Kernel {
  unsigned known_flags = ~0u;
  bool has_rings = true;
  bool has_fixed = true;              // files and memory may be registered
  std::atomic<int> submit_error = 0;  // of every submission from now on
  std::vector<unsigned> asked;        // flags, in order
};
Kernel* kernel = nullptr;

}  // namespace

extern "C" {
int __real_io_uring_queue_init(unsigned entries, io_uring* ring, unsigned flags);
int __real_io_uring_register_files(io_uring* ring, const int* files, unsigned count);
int __real_io_uring_register_buffers(io_uring* ring, const iovec* vectors, unsigned count);
int __real_io_uring_submit_and_wait(io_uring* ring, unsigned count);

int __wrap_io_uring_queue_init(unsigned entries, io_uring* ring, unsigned flags) {
  kernel->asked.push_back(flags);
  if (!kernel->has_rings) return -EPERM;
  if ((flags & ~kernel->known_flags) != 0) return -EINVAL;
  return __real_io_uring_queue_init(entries, ring, flags);
}
int __wrap_io_uring_register_files(io_uring* ring, const int* files, unsigned count) {
  return kernel->has_fixed ? __real_io_uring_register_files(ring, files, count) : -EINVAL;
}
int __wrap_io_uring_register_buffers(io_uring* ring, const iovec* vectors, unsigned count) {
  return kernel->has_fixed ? __real_io_uring_register_buffers(ring, vectors, count) : -ENOMEM;
}
int __wrap_io_uring_submit_and_wait(io_uring* ring, unsigned count) {
  if (kernel->submit_error != 0) return -kernel->submit_error;
  return __real_io_uring_submit_and_wait(ring, count);
}
}

namespace vkv {
namespace {

constexpr uint64_t kKiB = 1024;

class UringLadderTest : public testing::Test {
 protected:
  UringLadderTest() { ::kernel = &kernel_; }
  void SetUp() override {
    if (!make_uring_engine({}).ok()) GTEST_SKIP() << "io_uring is refused here";
    kernel_.asked.clear();
  }

  // Whether a store works, on which engine.
  std::string engine_of_store() {
    auto store = BlockStore::open(
        {.path = directory_ / "kv.store", .use = StoreUse::kKeep, .bytes_max = 16 << 20});
    EXPECT_TRUE(store.ok()) << store.status().message();
    if (!store.ok()) return "";
    EXPECT_TRUE(save(*store.value(), 1).ok());
    EXPECT_TRUE(compare(*store.value(), 1).ok());
    return std::string(store.value()->io_engine());
  }

  Kernel kernel_;
  TemporaryDirectory directory_;
};

TEST_F(UringLadderTest, a_new_kernel_is_asked_for_the_best_alone) {
  EXPECT_EQ(engine_of_store(), "io_uring");
  ASSERT_EQ(kernel_.asked.size(), 1u);
  EXPECT_TRUE(kernel_.asked[0] & IORING_SETUP_SINGLE_ISSUER);
  EXPECT_TRUE(kernel_.asked[0] & IORING_SETUP_DEFER_TASKRUN);
}

TEST_F(UringLadderTest, a_kernel_without_deferred_work_gets_cooperation) {
  kernel_.known_flags = ~unsigned{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
  EXPECT_EQ(engine_of_store(), "io_uring");
  ASSERT_EQ(kernel_.asked.size(), 2u);
  EXPECT_TRUE(kernel_.asked[1] & IORING_SETUP_COOP_TASKRUN);
}

TEST_F(UringLadderTest, a_kernel_that_knows_no_flag_gets_none) {
  kernel_.known_flags = 0;
  EXPECT_EQ(engine_of_store(), "io_uring");
  ASSERT_EQ(kernel_.asked.size(), 3u);
  EXPECT_EQ(kernel_.asked[2], 0u);
}

TEST_F(UringLadderTest, a_kernel_that_refuses_rings_gets_threads) {
  kernel_.has_rings = false;
  EXPECT_EQ(engine_of_store(), "threads");
  const auto asked_for = BlockStore::open({.path = directory_ / "other.store",
                                           .use = StoreUse::kKeep,
                                           .bytes_max = 16 << 20,
                                           .io = IoBackend::kUring});
  EXPECT_EQ(asked_for.status().code(), Code::kUnsupported);
  EXPECT_NE(asked_for.status().message().find("choose the threads engine"), std::string::npos);
}

TEST_F(UringLadderTest, what_may_not_be_registered_is_used_as_it_is) {
  kernel_.has_fixed = false;
  EXPECT_EQ(engine_of_store(), "io_uring");
  auto engine = std::move(make_uring_engine({}).value());
  MemoryBuffer buffer = std::move(test_memory().allocate(64 * kKiB, "a test").value());
  const std::span<std::byte> region = buffer.bytes();
  EXPECT_FALSE(engine->register_memory({&region, 1}));
}

// One submission fails: what was handed over ends with its error, and so does what comes later.
TEST_F(UringLadderTest, a_ring_that_breaks_ends_every_request) {
  for (const int error : {ENXIO, EFAULT}) {
    const int file = open((directory_ / "file").c_str(), O_RDWR | O_CREAT, 0600);
    ASSERT_EQ(ftruncate(file, 1 << 20), 0);
    {
      auto engine = std::move(make_uring_engine({.file = file}).value());
      MemoryBuffer buffer = std::move(test_memory().allocate(4 * kKiB, "a test").value());
      const auto read = [&] {
        IoRequest request{.data = buffer.data(), .byte_count = 4 * kKiB};
        engine->submit(request);
        engine->wait(request);
        return request.error;
      };
      EXPECT_EQ(read(), 0);
      kernel_.submit_error = error;
      int result = 0;
      for (int i = 0; i < 3 && result == 0; ++i) result = read();
      EXPECT_EQ(result, error);
      EXPECT_EQ(read(), error);
      const std::span<std::byte> region = buffer.bytes();
      EXPECT_FALSE(engine->register_memory({&region, 1}));
      kernel_.submit_error = 0;
    }
    close(file);
  }
}

// Short of memory: tried again until it passes.
TEST_F(UringLadderTest, a_kernel_that_is_short_of_memory_is_asked_again) {
  const int file = open((directory_ / "file").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(ftruncate(file, 1 << 20), 0);
  {
    auto engine = std::move(make_uring_engine({.file = file}).value());
    MemoryBuffer buffer = std::move(test_memory().allocate(4 * kKiB, "a test").value());
    kernel_.submit_error = EAGAIN;
    IoRequest request{.data = buffer.data(), .byte_count = 4 * kKiB};
    engine->submit(request);
    usleep(20000);
    kernel_.submit_error = 0;
    engine->wait(request);
    EXPECT_EQ(request.error, 0);
    EXPECT_EQ(request.bytes_done, 4 * kKiB);
  }
  close(file);
}

}  // namespace
}  // namespace vkv
