// Every engine finishes what system calls do by halves, holds no more than it may, and ends every
// request, well or not.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/io_engine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "tests/temporary_directory.h"
#include "transfer/memory_pool.h"

namespace vkv {
namespace {

constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB;

using MakeEngine = Result<std::unique_ptr<IoEngine>> (*)(const IoEngineOptions&);

class IoEngineTest : public testing::TestWithParam<std::pair<std::string_view, MakeEngine>> {
 protected:
  ~IoEngineTest() override { close(file_); }

  std::unique_ptr<IoEngine> make(IoEngineOptions options) {
    if (options.file < 0) options.file = file_;
    return std::move(GetParam().second(options).value());
  }

  MemoryBuffer filled(uint64_t byte_count, int value) {
    MemoryBuffer buffer = std::move(pool_.allocate(byte_count, "a test").value());
    std::memset(buffer.data(), value, byte_count);
    return buffer;
  }

  TemporaryDirectory directory_;
  const int file_ = open((directory_ / "file").c_str(), O_RDWR | O_CREAT, 0600);
  MemoryPool pool_{64 * kMiB};
};

TEST_P(IoEngineTest, a_transfer_done_in_parts_is_resumed_until_it_is_whole) {
  const auto engine = make({.call_bytes_max = 12 * kKiB});
  MemoryBuffer source = filled(kMiB, 0), target = filled(kMiB, 0xff);
  for (size_t i = 0; i < kMiB; ++i) source.data()[i] = static_cast<std::byte>(i * 31 >> 7);
  IoRequest write{.kind = IoRequest::Kind::kWrite,
                  .file_offset = 4096,
                  .data = source.data(),
                  .byte_count = kMiB};
  engine->submit(write);
  engine->wait(write);
  EXPECT_EQ(write.error, 0);
  EXPECT_EQ(write.bytes_done, kMiB);
  IoRequest read{.file_offset = 4096, .data = target.data(), .byte_count = kMiB};
  engine->submit(read);
  engine->wait(read);
  EXPECT_EQ(read.error, 0);
  EXPECT_EQ(std::memcmp(source.data(), target.data(), kMiB), 0);
}

TEST_P(IoEngineTest, registered_memory_and_other_memory_hold_the_same_bytes) {
  const auto engine = make({.call_bytes_max = 64 * kKiB});
  MemoryBuffer first = filled(256 * kKiB, 1), second = filled(256 * kKiB, 2);
  MemoryBuffer other = filled(256 * kKiB, 3);
  const std::span<std::byte> regions[] = {first.bytes(), second.bytes()};
  const bool is_registered = engine->register_memory(regions);
  std::printf("%s\n", is_registered ? "registered" : "not registered here");

  const auto move = [&](IoRequest::Kind kind, const MemoryBuffer& buffer, uint64_t at) {
    IoRequest request{.kind = kind,
                      .file_offset = at,
                      .data = buffer.data(),
                      .byte_count = buffer.bytes().size()};
    engine->submit(request);
    engine->wait(request);
    EXPECT_EQ(request.error, 0);
    EXPECT_EQ(request.bytes_done, buffer.bytes().size());
  };
  move(IoRequest::Kind::kWrite, other, 0);
  move(IoRequest::Kind::kWrite, second, kMiB);
  move(IoRequest::Kind::kRead, first, 0);
  move(IoRequest::Kind::kRead, other, kMiB);
  EXPECT_EQ(std::memcmp(other.data(), second.data(), 256 * kKiB), 0);
  const auto threes = std::count(first.bytes().begin(), first.bytes().end(), std::byte{3});
  EXPECT_EQ(static_cast<uint64_t>(threes), 256 * kKiB);
}

TEST_P(IoEngineTest, a_sync_is_over_without_moving_a_byte) {
  const auto engine = make({});
  MemoryBuffer source = filled(64 * kKiB, 7);
  IoRequest write{.kind = IoRequest::Kind::kWrite, .data = source.data(), .byte_count = 64 * kKiB};
  engine->submit(write);
  engine->wait(write);
  IoRequest sync{.kind = IoRequest::Kind::kSync};
  engine->submit(sync);
  engine->wait(sync);
  EXPECT_EQ(sync.error, 0);
  EXPECT_EQ(sync.bytes_done, 0u);

  int ends[2];
  ASSERT_EQ(pipe(ends), 0);  // what cannot be synced is an error
  const auto on_pipe = make({.file = ends[1]});
  IoRequest refused{.kind = IoRequest::Kind::kSync};
  on_pipe->submit(refused);
  on_pipe->wait(refused);
  EXPECT_EQ(refused.error, EINVAL);
  close(ends[0]);
  close(ends[1]);
}

TEST_P(IoEngineTest, no_more_are_under_way_than_may_be) {
  constexpr uint32_t kInFlight = 3, kRequests = 24;
  const auto engine = make({.in_flight_max = kInFlight});
  MemoryBuffer source = filled(2 * kMiB, 1);
  std::vector<IoRequest> requests(kRequests);
  for (uint32_t i = 0; i < kRequests; ++i) {
    requests[i] = {.kind = IoRequest::Kind::kWrite,
                   .file_offset = i * 2 * kMiB,
                   .data = source.data(),
                   .byte_count = 2 * kMiB};
    engine->submit(requests[i]);
    // Those that are not over are under way.
    const auto over = std::count_if(requests.begin(), requests.begin() + i + 1,
                                    [&](IoRequest& request) { return engine->done(request); });
    EXPECT_LE(i + 1 - static_cast<uint32_t>(over), kInFlight);
  }
  for (IoRequest& request : requests) engine->wait(request);
}

TEST_P(IoEngineTest, a_read_past_the_end_is_over_with_what_there_was) {
  ASSERT_EQ(ftruncate(file_, 10000), 0);
  const auto engine = make({});
  MemoryBuffer target = filled(64 * kKiB, 0xff);
  IoRequest read{.data = target.data(), .byte_count = 64 * kKiB};
  engine->submit(read);
  engine->wait(read);
  EXPECT_EQ(read.error, 0);
  EXPECT_EQ(read.bytes_done, 8192u);  // whole units
}

TEST_P(IoEngineTest, an_error_of_the_file_ends_the_request_and_not_the_engine) {
  const int read_only = open((directory_ / "file").c_str(), O_RDONLY);
  const auto engine = make({.file = read_only});
  ASSERT_EQ(ftruncate(file_, 4096), 0);
  MemoryBuffer buffer = filled(4096, 0);
  IoRequest write{.kind = IoRequest::Kind::kWrite, .data = buffer.data(), .byte_count = 4096};
  engine->submit(write);
  engine->wait(write);
  EXPECT_EQ(write.error, EBADF);
  IoRequest read{.data = buffer.data(), .byte_count = 4096};
  engine->submit(read);
  engine->wait(read);
  EXPECT_EQ(read.error, 0);
  EXPECT_EQ(read.bytes_done, 4096u);
  close(read_only);
}

TEST_P(IoEngineTest, many_threads_wait_for_each_others_requests) {
  ASSERT_EQ(ftruncate(file_, 16 * kMiB), 0);
  const auto engine = make({.in_flight_max = 4});
  MemoryBuffer target = filled(16 * kMiB, 0xff);
  std::vector<IoRequest> requests(64);
  for (size_t i = 0; i < 64; ++i) {
    requests[i] = {.file_offset = i * 256 * kKiB,
                   .data = target.data() + i * 256 * kKiB,
                   .byte_count = 256 * kKiB};
  }
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (size_t i = thread; i < 64; i += 4) engine->submit(requests[i]);
      // The first ones last: others' completions must not be lost, nor one's own be stolen.
      for (size_t i = 64 + thread; i >= 4; i -= 4) engine->wait(requests[i - 4]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const IoRequest& request : requests) EXPECT_EQ(request.bytes_done, 256 * kKiB);
  const auto zeros = std::count(target.bytes().begin(), target.bytes().end(), std::byte{0});
  EXPECT_EQ(static_cast<uint64_t>(zeros), 16 * kMiB);
}

template <UringSetup kSetup>
Result<std::unique_ptr<IoEngine>> make_uring_with(const IoEngineOptions& options) {
  IoEngineOptions with = options;
  with.setup = kSetup;
  return make_uring_engine(with);
}

// Threads, and every set-up of io_uring that this kernel takes.
std::vector<std::pair<std::string_view, MakeEngine>> engines_here() {
  std::vector<std::pair<std::string_view, MakeEngine>> engines = {{"threads", make_thread_engine}};
  const std::pair<std::string_view, MakeEngine> rings[] = {
      {"uring_deferred", make_uring_with<UringSetup::kDeferred>},
      {"uring_cooperative", make_uring_with<UringSetup::kCooperative>},
      {"uring_plain", make_uring_with<UringSetup::kPlain>}};
  for (const auto& ring : rings)
    if (ring.second({}).ok()) engines.push_back(ring);
  return engines;
}

std::string engine_name(const testing::TestParamInfo<IoEngineTest::ParamType>& engine) {
  return std::string(engine.param.first);
}

INSTANTIATE_TEST_SUITE_P(engines, IoEngineTest, testing::ValuesIn(engines_here()), engine_name);

// A request is retried while the reason may pass, and a bounded number of times.
TEST(must_continue, errors_that_may_pass_are_retried_but_not_for_ever) {
  for (const int error : {EINTR, EAGAIN, EBUSY, ECANCELED}) {
    IoRequest request{.byte_count = 8192};
    int calls = 1;
    while (must_continue(request, -error)) ++calls;
    EXPECT_EQ(request.error, error);
    EXPECT_GT(calls, 10);
  }
  IoRequest request{.byte_count = 8192};
  EXPECT_FALSE(must_continue(request, -EIO));
  EXPECT_EQ(request.error, EIO);
}

TEST(must_continue, parts_of_a_sector_do_not_count) {
  IoRequest request{.byte_count = 16384};
  EXPECT_TRUE(must_continue(request, 4096 + 100));
  EXPECT_EQ(request.bytes_done, 4096u);
  EXPECT_FALSE(must_continue(request, 100));  // a read: the file ends here
  EXPECT_EQ(request.bytes_done, 4096u);

  IoRequest write{.kind = IoRequest::Kind::kWrite, .byte_count = 8192};
  int calls = 1;
  while (must_continue(write, 0)) ++calls;
  EXPECT_EQ(write.error, EIO);
  EXPECT_GT(calls, 10);
}

}  // namespace
}  // namespace vkv
