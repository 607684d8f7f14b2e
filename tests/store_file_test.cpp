// A store takes only a path that is free or its own, says what is wrong with others, and falls back
// where io_uring is refused or the disk is full.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "tests/temporary_directory.h"
#include "transfer/block_store.h"
#include "transfer/memory_pool.h"
#include "transfer/store_format.h"

namespace vkv {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

Result<std::unique_ptr<BlockStore>> open_store(const std::string& path,
                                               IoBackend io = IoBackend::kAuto) {
  return BlockStore::open({.path = path, .bytes_max = 64 * kMiB, .io = io});
}

// Writes an extent and reads it back.
Status round_trip(BlockStore& store, uint64_t byte_count) {
  MemoryPool pool(2 * byte_count);
  VKV_TRY_ASSIGN(source, pool.allocate(byte_count, "a test"));
  VKV_TRY_ASSIGN(target, pool.allocate(byte_count, "a test"));
  std::memset(source.data(), 0x5a, byte_count);
  VKV_TRY_ASSIGN(extent, store.reserve(byte_count));
  VKV_TRY_ASSIGN(write, store.submit_write(extent, source.bytes()));
  VKV_TRY(store.wait(write));
  VKV_TRY_ASSIGN(read, store.submit_read(extent, target.bytes()));
  VKV_TRY(store.wait(read));
  VKV_CHECK(std::memcmp(source.data(), target.data(), byte_count) == 0);
  return {};
}

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void expect_refused(const Result<std::unique_ptr<BlockStore>>& outcome, Code code,
                    const std::string& part) {
  const Status status = outcome.status();
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_TRUE(contains(status.message(), part)) << status.message();
}

TEST(store_file, a_new_file_is_two_copies_of_a_superblock_that_only_its_owner_may_read) {
  const TemporaryDirectory directory;
  const auto store = open_store(directory / "kv");
  ASSERT_TRUE(store.ok()) << store.status().message();
  const std::string text = text_of(directory / "kv");
  ASSERT_EQ(text.size(), 8192u);
  EXPECT_EQ(text.substr(0, 4096), text.substr(4096));
  StorePage page;
  std::memcpy(page.data(), text.data(), page.size());
  const auto block = decode_superblock(page);
  ASSERT_TRUE(block.has_value());
  EXPECT_EQ(block->process, static_cast<uint32_t>(getpid()));
  EXPECT_TRUE(block->is_temporary);
  EXPECT_EQ(std::filesystem::status(directory / "kv").permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST(store_file, a_foreign_file_is_neither_overwritten_nor_removed) {
  const TemporaryDirectory directory;
  const std::string letter = "Dear Sir, VKVSTORE";
  std::ofstream(directory / "letter") << letter;
  std::ofstream(directory / "empty");
  expect_refused(open_store(directory / "letter"), Code::kInvalidArgument,
                 "is not a VisualKV store, so it is not overwritten");
  expect_refused(open_store(directory / "empty"), Code::kInvalidArgument, "not overwritten");
  EXPECT_EQ(text_of(directory / "letter"), letter);
  EXPECT_TRUE(std::filesystem::exists(directory / "empty"));

  std::string later = "VKVSTORE";
  later += std::string("\2\0\0\0\0\0\0\0", 8);
  std::ofstream(directory / "later") << later;
  expect_refused(open_store(directory / "later"), Code::kInvalidArgument, "of version 2");
  EXPECT_EQ(text_of(directory / "later"), later);

  std::filesystem::create_symlink(directory / "letter", directory / "link");
  expect_refused(open_store(directory / "link"), Code::kInvalidArgument, "not a regular file");
  ASSERT_EQ(mkfifo((directory / "pipe").c_str(), 0600), 0);
  expect_refused(open_store(directory / "pipe"), Code::kInvalidArgument, "not a regular file");
}

TEST(store_file, a_path_that_cannot_be_a_file_is_a_clear_error) {
  const TemporaryDirectory directory;
  expect_refused(open_store(directory.path()), Code::kInvalidArgument, "is a directory");
  expect_refused(open_store(directory.path() + "/"), Code::kInvalidArgument, "is a directory");
  expect_refused(open_store(""), Code::kInvalidArgument, "it is empty");
  expect_refused(open_store(directory / "no/such/directory"), Code::kIo,
                 "No such file or directory (errno 2); its directory must exist and be writable");
  expect_refused(open_store("/proc/vkv"), Code::kIo, "cannot create the store '/proc/vkv'");
}

TEST(store_file, a_store_in_use_is_refused_and_survives) {
  const TemporaryDirectory directory;
  const auto first = open_store(directory / "kv");
  ASSERT_TRUE(first.ok());
  expect_refused(open_store(directory / "kv"), Code::kInvalidArgument,
                 "is in use by process " + std::to_string(getpid()));
  EXPECT_TRUE(round_trip(*first.value(), kMiB).ok());
}

TEST(store_file, an_abandoned_store_is_taken_over) {
  const TemporaryDirectory directory;
  const pid_t child = fork();
  if (child == 0) {
    auto store = open_store(directory / "kv");
    const bool worked = store.ok() && round_trip(*store.value(), kMiB).ok();
    _exit(worked ? 0 : 1);  // no destructor runs, as after a crash
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_TRUE(std::filesystem::exists(directory / "kv"));
  {
    const auto store = open_store(directory / "kv");
    ASSERT_TRUE(store.ok()) << store.status().message();
    EXPECT_EQ(std::filesystem::file_size(directory / "kv"), 8192u);
    EXPECT_TRUE(round_trip(*store.value(), kMiB).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(directory / "kv"));
}

TEST(store_file, what_the_version_before_this_left_is_taken_over) {
  const TemporaryDirectory directory;
  std::string before("VKVSTORE\0\0\0\0\7\0\0\0", 16);
  before.resize(4096, '\0');
  std::ofstream(directory / "kv") << before;
  const auto store = open_store(directory / "kv");
  ASSERT_TRUE(store.ok()) << store.status().message();
  EXPECT_TRUE(round_trip(*store.value(), kMiB).ok());
}

TEST(store_file, it_is_removed_also_after_a_change_of_directory_but_never_a_file_of_another) {
  const TemporaryDirectory directory;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(directory.path());
  auto store = open_store("kv");
  std::filesystem::current_path(before);
  ASSERT_TRUE(store.ok()) << store.status().message();
  store.value().reset();
  EXPECT_FALSE(std::filesystem::exists(directory / "kv"));

  store = open_store(directory / "kv");
  std::filesystem::remove(directory / "kv");
  std::ofstream(directory / "kv") << "somebody else's";
  store.value().reset();
  EXPECT_EQ(text_of(directory / "kv"), "somebody else's");
}

TEST(store_file, bad_numbers_are_refused) {
  const TemporaryDirectory directory;
  expect_refused(BlockStore::open({.path = directory / "kv", .bytes_max = 4096}),
                 Code::kInvalidArgument, "must be 1048576 or more");
  expect_refused(
      BlockStore::open({.path = directory / "kv", .bytes_max = kMiB, .in_flight_max = 0}),
      Code::kInvalidArgument, "it may be 1 to 4096");
  EXPECT_FALSE(std::filesystem::exists(directory / "kv"));
}

TEST(store_file, the_environment_forces_an_engine) {
  const TemporaryDirectory directory;
  const char* const forced = std::getenv("VKV_IO");
  const std::string before = forced == nullptr ? "" : forced;
  setenv("VKV_IO", "threads", 1);
  EXPECT_TRUE(open_store(directory / "kv").value()->io_engine().starts_with("threads"));
  setenv("VKV_IO", "floppy", 1);
  expect_refused(open_store(directory / "kv"), Code::kInvalidArgument,
                 "VKV_IO is 'floppy'; there are: uring threads");
  setenv("VKV_IO", before.c_str(), 1);
}

// From now on this process gets EPERM for one system call.
void forbid(unsigned system_call) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, system_call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = std::size(filter), .filter = filter};
  VKV_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  VKV_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

TEST(io_fallback, threads_take_over_where_a_container_refuses_io_uring) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const TemporaryDirectory directory;
  for (const unsigned refused : {SYS_io_uring_setup, SYS_io_uring_enter}) {
    const auto in_child = [&] {
      forbid(refused);
      unsetenv("VKV_IO");
      const Status status = open_store(directory / "kv", IoBackend::kUring).status();
      VKV_CHECK(!status.ok() && contains(status.message(), "Operation not permitted"));
      auto store = open_store(directory / "kv");
      VKV_CHECK(store.ok() && store.value()->io_engine().starts_with("threads"));
      VKV_CHECK(round_trip(*store.value(), kMiB).ok());
      store.value().reset();
      _exit(0);
    };
    EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "") << "system call " << refused;
  }
}

TEST(io_fallback, memory_that_may_not_be_locked_is_used_as_any_other) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const TemporaryDirectory directory;
  ASSERT_EQ(chmod(directory.path().c_str(), 0777), 0);
  const auto in_child = [&] {
    const rlimit limit{.rlim_cur = 64 << 10, .rlim_max = 64 << 10};
    VKV_CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    constexpr uid_t kNobody = 65534;  // root may lock all it likes
    VKV_CHECK(geteuid() != 0 || setresuid(kNobody, kNobody, kNobody) == 0);
    MemoryPool pool(64 * kMiB);
    MemoryBuffer buffer = std::move(pool.allocate(32 * kMiB, "a test").value());
    const std::span<std::byte> regions[] = {buffer.bytes()};
    auto store = open_store(directory / "kv");
    VKV_CHECK(store.ok());
    store.value()->register_memory(regions);
    StoreExtent extent = store.value()->reserve(kMiB).value();
    std::memset(buffer.data(), 0x5a, 2 * kMiB);
    const auto source = buffer.bytes().first(kMiB), target = buffer.bytes().subspan(kMiB, kMiB);
    VKV_CHECK(store.value()->wait(store.value()->submit_write(extent, source).value()).ok());
    std::memset(target.data(), 0, kMiB);
    VKV_CHECK(store.value()->wait(store.value()->submit_read(extent, target).value()).ok());
    VKV_CHECK(std::memcmp(source.data(), target.data(), kMiB) == 0);
    std::fprintf(stderr, "%s\n", std::string(store.value()->io_engine()).c_str());
    store.value().reset();
    _exit(0);
  };
  EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "io_uring|threads");
}

TEST(full_disk, a_limit_on_file_sizes_is_an_error_and_not_a_signal) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const TemporaryDirectory directory;
  const auto in_child = [&] {
    const rlimit limit{.rlim_cur = 4 * kMiB, .rlim_max = 4 * kMiB};
    VKV_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    auto store = open_store(directory / "kv");
    VKV_CHECK(store.ok() && round_trip(*store.value(), kMiB).ok());
    const Status status = store.value()->reserve(8 * kMiB).status();
    std::fprintf(stderr, "%s\n", status.message().c_str());
    VKV_CHECK(status.code() == Code::kIo && round_trip(*store.value(), kMiB).ok());
    store.value().reset();
    _exit(0);
  };
  EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "may write files of 4194304 bytes");
}

constexpr int kNoMount = 77;

// A tmpfs of 8 MiB, seen by this process alone; ends the process where that is not allowed.
void mount_small_disk(const std::string& path) {
  const int flags = geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER;
  if (unshare(flags) != 0) _exit(kNoMount);
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(kNoMount);
  if (mount("tmpfs", path.c_str(), "tmpfs", 0, "size=8m") != 0) _exit(kNoMount);
}

TEST(full_disk, it_is_an_error_that_names_the_need_and_what_is_free) {
  const TemporaryDirectory directory;
  for (const IoBackend io : {IoBackend::kAuto, IoBackend::kThreads}) {
    const pid_t child = fork();
    if (child == 0) {
      mount_small_disk(directory.path());
      auto store = open_store(directory / "kv", io);
      VKV_CHECK(store.ok());
      std::vector<StoreExtent> extents;
      Status status;
      while (status.ok()) {
        auto extent = store.value()->reserve(kMiB);
        status = extent.status();
        if (extent.ok()) extents.push_back(extent.value());
      }
      VKV_CHECK(status.code() == Code::kIo);
      VKV_CHECK(contains(status.message(),
                         "No space left on device (errno 28); 1048576 more bytes are needed, "));
      VKV_CHECK(contains(status.message(), " are free on that file system"));
      VKV_CHECK(extents.size() == 7);  // the last step of growth was as small as the need
      store.value()->release(extents[3]);
      VKV_CHECK(round_trip(*store.value(), kMiB).ok());
      store.value().reset();
      _exit(0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == kNoMount) {
      std::printf("not shown here: this user may not mount a small tmpfs\n");
      continue;
    }
    EXPECT_EQ(status, 0);
  }
}

// What was given back is asked for again before it is used: what others took meanwhile is an error
// of reserve(), and no write or commit fails.
TEST(full_disk, room_that_was_given_back_may_be_gone) {
  const TemporaryDirectory directory;
  const pid_t child = fork();
  if (child == 0) {
    mount_small_disk(directory.path());
    auto store =
        BlockStore::open({.path = directory / "kv", .use = StoreUse::kKeep, .bytes_max = 2 * kMiB});
    VKV_CHECK(store.ok());
    std::vector<StoreExtent> extents;
    for (int i = 0; i < 2; ++i) extents.push_back(store.value()->reserve(512 << 10).value());
    CommittedSequence sequence{.extents = {{.extent = extents[0]}}};
    MemoryPool pool(kMiB);
    MemoryBuffer bytes = std::move(pool.allocate(512 << 10, "a test").value());
    for (StoreExtent& extent : extents)
      VKV_CHECK(
          store.value()->wait(store.value()->submit_write(extent, bytes.bytes()).value()).ok());
    VKV_CHECK(store.value()->commit(sequence).ok());
    store.value()->release(extents[0]);
    VKV_CHECK(store.value()->erase(sequence.key).ok());
    VKV_CHECK(store.value()->stats().given_back_bytes == 512 << 10);
    // Others take all there is.
    const int other = ::open((directory / "other").c_str(), O_RDWR | O_CREAT, 0600);
    off_t taken = 0;
    while (fallocate(other, 0, taken, 4096) == 0) taken += 4096;
    const Status status = store.value()->reserve(512 << 10).status();
    VKV_CHECK(status.code() == Code::kIo && contains(status.message(), "No space left on device"));
    VKV_CHECK(store.value()->health().ok());
    VKV_CHECK(ftruncate(other, taken - (1 << 20)) == 0);
    VKV_CHECK(store.value()->reserve(512 << 10).ok());
    store.value().reset();
    _exit(0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNoMount)
    GTEST_SKIP() << "not shown here: this user may not mount a small tmpfs";
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace vkv
