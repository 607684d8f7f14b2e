// thread_io.cpp: pread, pwrite and fdatasync by a pool of threads, for where io_uring is refused.
// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "transfer/io_engine.h"

namespace vkv {
namespace {

// Reads of 256 KiB and more saturate a drive with 4 to 8 of them under way; threads mostly sleep.
constexpr uint32_t kThreadsMax = 8;

class ThreadEngine final : public IoEngine {
 public:
  explicit ThreadEngine(const IoEngineOptions& options) : options_(options) {}

  ~ThreadEngine() override {
    {
      const std::lock_guard lock(mutex_);
      VKV_CHECK(in_flight_ == 0);
      stopping_ = true;
    }
    work_or_stop_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  Status start() {
    const uint32_t thread_count = std::min(options_.in_flight_max, kThreadsMax);
    try {
      while (threads_.size() < thread_count) threads_.emplace_back([this] { serve(); });
    } catch (const std::system_error& error) {
      if (threads_.empty()) {
        return {Code::kIo, std::string("no thread for file input and output: ") + error.what()};
      }
    }
    return {};
  }

  void submit(IoRequest& request) override {
    std::unique_lock lock(mutex_);
    one_is_over_.wait(lock, [&] { return in_flight_ < options_.in_flight_max; });
    ++in_flight_;
    queue_.push_back(&request);
    lock.unlock();
    work_or_stop_.notify_one();
  }

  void wait(IoRequest& request) override {
    std::unique_lock lock(mutex_);
    one_is_over_.wait(lock, [&] { return request.over; });
  }

  bool done(IoRequest& request) override {
    const std::lock_guard lock(mutex_);
    return request.over;
  }

  bool register_memory(std::span<const std::span<std::byte>>) override { return false; }

  std::string_view name() const override { return "threads"; }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_or_stop_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      IoRequest& request = *queue_.front();
      queue_.pop_front();
      lock.unlock();
      while (must_continue(request, call(request))) {
      }
      lock.lock();
      request.over = true;
      --in_flight_;
      one_is_over_.notify_all();
    }
  }

  int64_t call(const IoRequest& request) const {
    if (request.kind == IoRequest::Kind::kSync) return fdatasync(options_.file) == 0 ? 0 : -errno;
    std::byte* const data = request.data + request.bytes_done;
    const uint64_t byte_count = next_call_bytes(request, options_);
    const off_t offset = static_cast<off_t>(request.file_offset + request.bytes_done);
    const ssize_t result = request.kind == IoRequest::Kind::kRead
                               ? pread(options_.file, data, byte_count, offset)
                               : pwrite(options_.file, data, byte_count, offset);
    return result >= 0 ? result : -errno;
  }

  const IoEngineOptions options_;
  std::mutex mutex_;
  std::condition_variable work_or_stop_;
  std::condition_variable one_is_over_;
  std::deque<IoRequest*> queue_;
  uint32_t in_flight_ = 0;  // queued, or in a thread's hands
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<IoEngine>> make_thread_engine(const IoEngineOptions& options) {
  auto engine = std::make_unique<ThreadEngine>(options);
  VKV_TRY(engine->start());
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace vkv
