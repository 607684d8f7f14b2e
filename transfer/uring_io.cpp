// uring_io.cpp: one io_uring that any thread may use.
// SPDX-License-Identifier: Apache-2.0
//
// The mutex guards the submission side and all bookkeeping. The completion side belongs to one
// thread at a time, the reaper: it sleeps in the kernel without the mutex, so that others go on
// submitting, then takes all completions there are and passes the role on.
#include <liburing.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "transfer/io_engine.h"

namespace vkv {
namespace {

// The best first. COOP_TASKRUN, SINGLE_ISSUER and DEFER_TASKRUN are left out on purpose: they delay
// a completion until the thread that submitted enters the kernel again, and here it may be
// computing while another thread waits.
constexpr unsigned kSetupFlags[] = {IORING_SETUP_SUBMIT_ALL, 0};  // SUBMIT_ALL: Linux 5.18

constexpr auto kPause = std::chrono::milliseconds(1);
constexpr int kSubmitAttemptsMax = 1000;

class UringEngine final : public IoEngine {
 public:
  explicit UringEngine(const IoEngineOptions& options) : options_(options) {}

  ~UringEngine() override {
    if (!is_open_) return;
    VKV_CHECK(in_flight_ == 0);
    // The kernel takes a ring apart in its own time; the file, and the lock on it, is to be free
    // now.
    if (has_fixed_file_) (void)io_uring_unregister_files(&ring_);
    io_uring_queue_exit(&ring_);
  }

  Status start() {
    int result = 0;
    for (const unsigned flags : kSetupFlags) {
      result = io_uring_queue_init(options_.in_flight_max, &ring_, flags);
      is_open_ = result == 0;
      if (!is_open_) continue;
      // Saves the kernel a look into the table of files each time; works without, too.
      has_fixed_file_ = io_uring_register_files(&ring_, &options_.file, 1) == 0;
      return {};
    }
    return {Code::kUnsupported, "io_uring is refused here (io_uring_queue_init: " +
                                    std::system_category().message(-result) +
                                    "); choose the threads engine"};
  }

  void submit(IoRequest& request) override {
    std::unique_lock lock(mutex_);
    while (in_flight_ >= options_.in_flight_max) reap(lock);
    ++in_flight_;
    start_call(request);
  }

  void wait(IoRequest& request) override {
    std::unique_lock lock(mutex_);
    while (!request.over) reap(lock);
  }

  bool done(IoRequest& request) override {
    const std::lock_guard lock(mutex_);
    if (!request.over && !reaper_at_work_) take_completions();
    return request.over;
  }

  bool register_memory(std::span<const std::span<std::byte>> regions) override {
    const std::lock_guard lock(mutex_);
    VKV_CHECK(in_flight_ == 0 && regions_.empty());
    std::vector<iovec> vectors;
    for (const std::span<std::byte> region : regions) {
      vectors.push_back({.iov_base = region.data(), .iov_len = region.size()});
    }
    const auto count = static_cast<unsigned>(vectors.size());
    if (io_uring_register_buffers(&ring_, vectors.data(), count) != 0) return false;
    regions_.assign(regions.begin(), regions.end());
    return true;
  }

  std::string_view name() const override { return "io_uring"; }

 private:
  // Returns after something is over, or might be. Lock held, but not while asleep.
  void reap(std::unique_lock<std::mutex>& lock) {
    if (reaper_at_work_) return reaper_is_back_.wait(lock);
    reaper_at_work_ = true;
    lock.unlock();
    io_uring_cqe* completion = nullptr;
    const int result = io_uring_wait_cqe(&ring_, &completion);
    // Completions arrive even where the kernel will not let us sleep for them.
    if (result < 0 && result != -EINTR) std::this_thread::sleep_for(kPause);
    lock.lock();
    reaper_at_work_ = false;
    take_completions();
    reaper_is_back_.notify_all();
  }

  // Lock held, and no reaper at work.
  void take_completions() {
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring_, &completion) == 0) {
      auto& request = *static_cast<IoRequest*>(io_uring_cqe_get_data(completion));
      const int result = completion->res;
      io_uring_cqe_seen(&ring_, completion);
      if (must_continue(request, result)) {
        start_call(request);
      } else {
        finish(request);
      }
    }
  }

  void finish(IoRequest& request) {
    request.over = true;
    --in_flight_;
  }

  // Hands the part of the request that is still missing to the kernel. Lock held.
  void start_call(IoRequest& request) {
    io_uring_sqe* const entry = submit_error_ == 0 ? io_uring_get_sqe(&ring_) : nullptr;
    if (entry == nullptr) {
      // Never for want of room: a ring has an entry for every request in flight.
      VKV_CHECK(submit_error_ != 0);
      request.error = submit_error_;
      return finish(request);
    }
    prepare(*entry, request);
    io_uring_sqe_set_data(entry, &request);

    int result = 0;
    for (int attempt = 0; attempt < kSubmitAttemptsMax; ++attempt) {
      result = io_uring_submit(&ring_);
      if (result >= 1) return;
      // 0, EAGAIN, EBUSY: the kernel is short of memory or of room for completions.
      if (result != -EINTR) std::this_thread::sleep_for(kPause);
      if (result != 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) break;
    }
    // The entry stays in the ring, so the ring must never be submitted again.
    submit_error_ = result == 0 ? EAGAIN : -result;
    request.error = submit_error_;
    finish(request);
  }

  void prepare(io_uring_sqe& entry, const IoRequest& request) const {
    const int file = has_fixed_file_ ? 0 : options_.file;  // 0: index of the registered one
    std::byte* const data = request.data + request.bytes_done;
    const auto byte_count = static_cast<unsigned>(next_call_bytes(request, options_));
    const uint64_t offset = request.file_offset + request.bytes_done;
    const int region = region_of(data, byte_count);
    if (request.kind == IoRequest::Kind::kSync) {
      io_uring_prep_fsync(&entry, file, IORING_FSYNC_DATASYNC);
    } else if (request.kind == IoRequest::Kind::kRead) {
      if (region >= 0) {
        io_uring_prep_read_fixed(&entry, file, data, byte_count, offset, region);
      } else {
        io_uring_prep_read(&entry, file, data, byte_count, offset);
      }
    } else if (region >= 0) {
      io_uring_prep_write_fixed(&entry, file, data, byte_count, offset, region);
    } else {
      io_uring_prep_write(&entry, file, data, byte_count, offset);
    }
    if (has_fixed_file_) entry.flags |= IOSQE_FIXED_FILE;
  }

  // Index of the registered memory that holds the bytes; -1: none does.
  int region_of(const std::byte* data, uint64_t byte_count) const {
    for (size_t i = 0; i < regions_.size(); ++i) {
      const std::byte* const begin = regions_[i].data();
      if (data >= begin && data + byte_count <= begin + regions_[i].size()) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }

  const IoEngineOptions options_;
  io_uring ring_{};
  bool is_open_ = false;
  bool has_fixed_file_ = false;
  std::vector<std::span<std::byte>> regions_;

  std::mutex mutex_;
  std::condition_variable reaper_is_back_;
  bool reaper_at_work_ = false;
  uint32_t in_flight_ = 0;
  int submit_error_ = 0;  // errno of the submission that broke the ring
};

}  // namespace

Result<std::unique_ptr<IoEngine>> make_uring_engine(const IoEngineOptions& options) {
  auto engine = std::make_unique<UringEngine>(options);
  VKV_TRY(engine->start());
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace vkv
