// plain_disk.cpp: submit, wait, again.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/plain_disk.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>

namespace vkv {
namespace {

using Clock = std::chrono::steady_clock;

Status failed(const std::string& what, int error) {
  return {Code::kIo, what + ": " + std::system_category().message(error)};
}

class PlainLoop {
 public:
  PlainLoop(int file, const DiskRun& run) : file_(file), run_(run) {}
  ~PlainLoop() {
    if (is_open_) io_uring_queue_exit(&ring_);
  }

  Status prepare() {
    const auto depth = static_cast<unsigned>(run_.depth);
    int result =
        io_uring_queue_init(depth, &ring_, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (result != 0) result = io_uring_queue_init(depth, &ring_, 0);
    if (result != 0) return {Code::kUnsupported, "io_uring is refused here"};
    is_open_ = true;
    const iovec all{.iov_base = run_.buffers.data(), .iov_len = run_.buffers.size()};
    is_registered_ = io_uring_register_buffers(&ring_, &all, 1) == 0;
    started_.resize(depth);
    return {};
  }

  Status run(DiskTime& time) {
    size_t next = 0, under_way = 0;
    std::vector<int> free;
    for (int slot = 0; slot < run_.depth; ++slot) free.push_back(slot);
    while (next < run_.offsets.size() || under_way > 0) {
      while (next < run_.offsets.size() && !free.empty()) {
        submit(free.back(), run_.offsets[next++]);
        free.pop_back();
        ++under_way;
      }
      const int result = io_uring_submit_and_wait(&ring_, 1);
      if (result < 0 && result != -EINTR) return failed("io_uring", -result);
      io_uring_cqe* completion = nullptr;
      while (io_uring_peek_cqe(&ring_, &completion) == 0) {
        const auto slot = static_cast<int>(io_uring_cqe_get_data64(completion));
        const int moved = completion->res;
        io_uring_cqe_seen(&ring_, completion);
        if (moved < 0) return failed("the plain loop", -moved);
        if (static_cast<uint64_t>(moved) != run_.extent_bytes) {
          return {Code::kIo, "the plain loop: a short transfer"};
        }
        const std::chrono::duration<double> taken =
            Clock::now() - started_[static_cast<size_t>(slot)];
        time.latency_seconds.push_back(taken.count());
        free.push_back(slot);
        --under_way;
      }
    }
    return {};
  }

 private:
  void submit(int slot, uint64_t offset) {
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    VKV_CHECK(entry != nullptr);
    std::byte* const data = run_.buffers.data() + static_cast<uint64_t>(slot) * run_.extent_bytes;
    const auto byte_count = static_cast<unsigned>(run_.extent_bytes);
    if (run_.is_write) {
      io_uring_prep_write(entry, file_, data, byte_count, offset);
    } else {
      io_uring_prep_read(entry, file_, data, byte_count, offset);
    }
    if (is_registered_) {
      entry->opcode = run_.is_write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
      entry->buf_index = 0;
    }
    io_uring_sqe_set_data64(entry, static_cast<uint64_t>(slot));
    started_[static_cast<size_t>(slot)] = Clock::now();
  }

  const int file_;
  const DiskRun& run_;
  io_uring ring_{};
  bool is_open_ = false;
  bool is_registered_ = false;
  std::vector<Clock::time_point> started_;
};

}  // namespace

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Result<DiskTime> time_plain_disk(const std::string& path, const DiskRun& run) {
  const int file = open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  if (file < 0) return failed("cannot open " + path + " with O_DIRECT", errno);
  DiskTime time;
  Status status;
  {
    PlainLoop loop(file, run);
    status = loop.prepare();
    const double cpu_before = cpu_seconds();
    const auto begin = Clock::now();
    if (status.ok()) status = loop.run(time);
    time.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    time.cpu_seconds = cpu_seconds() - cpu_before;
  }
  close(file);
  if (!status.ok()) return status;
  std::sort(time.latency_seconds.begin(), time.latency_seconds.end());
  return time;
}

}  // namespace vkv
