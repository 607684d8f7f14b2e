// Whatever a disk does, a store gives the bytes that were written or says what is wrong.
// SPDX-License-Identifier: Apache-2.0
//
// The system calls of the threads engine go through this file (ld --wrap), so that they can be
// interrupted and do less than they were asked for.
#include <gtest/gtest.h>
#include <sys/types.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/fault_engine.h"
#include "tests/store_driver.h"
#include "tests/temporary_directory.h"
#include "transfer/block_store.h"

namespace {

std::atomic<bool> calls_are_unreliable = false;
std::atomic<uint64_t> call_count = 0;

// Of three calls one is interrupted, one does a part, one does all.
template <class Call>
ssize_t unreliable(size_t byte_count, const Call& call) {
  if (!calls_are_unreliable) return call(byte_count);
  switch (call_count++ % 3) {
    case 0:
      errno = EINTR;
      return -1;
    case 1:
      return call(byte_count > 4096 ? byte_count / 4096 / 2 * 4096 : byte_count);
    default:
      return call(byte_count);
  }
}

}  // namespace

extern "C" {
ssize_t __real_pread(int file, void* data, size_t byte_count, off_t offset);
ssize_t __real_pwrite(int file, const void* data, size_t byte_count, off_t offset);
int __real_fdatasync(int file);

ssize_t __wrap_pread(int file, void* data, size_t byte_count, off_t offset) {
  return unreliable(byte_count,
                    [&](size_t count) { return __real_pread(file, data, count, offset); });
}
ssize_t __wrap_pwrite(int file, const void* data, size_t byte_count, off_t offset) {
  return unreliable(byte_count,
                    [&](size_t count) { return __real_pwrite(file, data, count, offset); });
}
int __wrap_fdatasync(int file) {
  return static_cast<int>(unreliable(0, [&](size_t) { return __real_fdatasync(file); }));
}
}

namespace vkv {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class StoreFaultTest : public testing::Test {
 protected:
  ~StoreFaultTest() override { calls_are_unreliable = false; }

  // Faults may be changed while it is open.
  std::unique_ptr<BlockStore> open(IoBackend io = IoBackend::kAuto) {
    *faults_ = {};
    auto store = BlockStore::open(
        {.path = path_,
         .use = StoreUse::kKeep,
         .bytes_max = 64 * kMiB,
         .io = io,
         .around_engine = [this](std::unique_ptr<IoEngine> engine) -> std::unique_ptr<IoEngine> {
           return std::make_unique<FaultEngine>(std::move(engine), faults_);
         }});
    EXPECT_TRUE(store.ok()) << store.status().message();
    return std::move(store.value());
  }

  std::set<uint64_t> numbers(BlockStore& store) {
    std::set<uint64_t> all;
    for (const StoredSequence& sequence : store.committed()) all.insert(number_of(sequence.key));
    return all;
  }

  TemporaryDirectory directory_;
  const std::string path_ = directory_ / "kv.store";
  std::shared_ptr<Faults> faults_ = std::make_shared<Faults>();
};

void must(const Status& status) { ASSERT_TRUE(status.ok()) << status.message(); }

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(StoreFaultTest, interrupted_and_short_system_calls_change_nothing) {
  calls_are_unreliable = true;
  {
    auto store = BlockStore::open(
        {.path = path_, .use = StoreUse::kKeep, .bytes_max = 64 * kMiB, .io = IoBackend::kThreads});
    must(store.status());
    for (uint64_t number = 1; number <= 30; ++number) must(save(*store.value(), number));
    for (uint64_t number = 1; number <= 30; number += 2) must(store.value()->erase(key_of(number)));
  }
  const auto store = open_kept(path_);
  must(store.status());
  for (uint64_t number = 2; number <= 30; number += 2) must(compare(*store.value(), number));
  EXPECT_EQ(store.value()->committed().size(), 15u);
  EXPECT_GT(call_count, 300u);
}

TEST_F(StoreFaultTest, a_read_that_fails_is_an_error_and_the_next_may_succeed) {
  const auto store = open();
  must(save(*store, 1));
  faults_->read_errors_from = 1;
  const Status status = compare(*store, 1);
  EXPECT_EQ(status.code(), Code::kIo);
  EXPECT_TRUE(contains(status.message(), "Input/output error (errno 5)")) << status.message();
  faults_->read_errors_from = 0;
  must(compare(*store, 1));
  must(store->health());
}

TEST_F(StoreFaultTest, a_flipped_bit_in_a_read_is_data_loss) {
  const auto store = open();
  must(save(*store, 1));
  faults_->flips_bits = true;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(compare(*store, 1).code(), Code::kDataLoss);
  faults_->flips_bits = false;
  must(compare(*store, 1));
}

TEST_F(StoreFaultTest, flipped_bits_in_the_index_are_data_loss_at_open) {
  {
    const auto store = open();
    for (uint64_t number = 1; number <= 10; ++number) must(save(*store, number));
  }
  int refused = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    auto faults = std::make_shared<Faults>(Faults{.flips_bits = true, .seed = seed});
    const auto store = BlockStore::open(
        {.path = path_,
         .use = StoreUse::kReadOnly,
         .around_engine = [&](std::unique_ptr<IoEngine> engine) -> std::unique_ptr<IoEngine> {
           return std::make_unique<FaultEngine>(std::move(engine), faults);
         }});
    must(store.status());
    faults->flips_bits = false;
    if (!store.value()->health().ok()) {
      ++refused;
      EXPECT_EQ(store.value()->health().code(), Code::kDataLoss);
    } else {
      EXPECT_EQ(numbers(*store.value()).size(), 10u);  // the bit was in a page that is not used
    }
    for (const uint64_t number : numbers(*store.value())) must(compare(*store.value(), number));
  }
  EXPECT_GT(refused, 0);
}

TEST_F(StoreFaultTest, a_write_of_an_extent_that_fails_commits_nothing_and_frees_its_room) {
  for (const int error : {EIO, ENOSPC}) {
    const auto store = open();
    must(save(*store, 1));
    const uint64_t bytes = store->stats().bytes_reserved;
    faults_->write_errors_from = faults_->operation_count + 1;
    faults_->error = error;
    EXPECT_EQ(save(*store, 2).code(), Code::kIo);
    EXPECT_EQ(store->stats().bytes_reserved, bytes);
    must(store->health());
    must(compare(*store, 1));
    faults_->write_errors_from = 0;
    must(save(*store, 2));  // nothing of the index was touched
    must(compare(*store, 2));
    must(store->erase(key_of(2)));
  }
}

// Operation by operation of a commit: whichever fails, writing is off, reads go on, and what is
// there after the next opening is the state before or after, never another.
TEST_F(StoreFaultTest, a_commit_that_fails_turns_writing_off_and_keeps_reads) {
  int failures = 0;
  for (uint64_t later = 1; later <= 4; ++later) {
    for (const bool is_sync : {false, true}) {
      std::filesystem::remove(path_);
      {
        const auto store = open();
        must(save(*store, 1));
        const auto extents = write_extents(*store, 2);
        (is_sync ? faults_->sync_errors_from : faults_->write_errors_from) =
            faults_->operation_count + later;
        const Status status =
            store->commit({.key = key_of(2), .token_count = 2, .extents = extents.value()});
        if (status.ok()) continue;  // its operations were over by then
        ++failures;
        EXPECT_EQ(status.code(), Code::kIo);
        EXPECT_EQ(store->health().code(), Code::kIo);
        *faults_ = {};
        EXPECT_EQ(store->erase(key_of(1)).code(), Code::kIo);  // off for good
        EXPECT_EQ(numbers(*store), std::set<uint64_t>{1});
        must(compare(*store, 1));
        release_all(*store, extents.value());
      }
      const auto store = open();
      must(compare(*store, 1));
      if (numbers(*store).contains(2)) must(compare(*store, 2));
    }
  }
  EXPECT_GE(failures, 3);
}

TEST_F(StoreFaultTest, a_slow_disk_is_waited_for) {
  const auto store = open();
  faults_->delay = std::chrono::milliseconds(15);
  must(save(*store, 1));
  must(compare(*store, 1));
}

}  // namespace
}  // namespace vkv
