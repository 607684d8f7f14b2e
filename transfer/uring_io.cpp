// uring_io.cpp: an io_uring and the thread that has it for itself.
// SPDX-License-Identifier: Apache-2.0
//
// Any thread hands requests over and waits for them; one thread alone fills the ring, enters the
// kernel and takes completions. So the kernel may keep completions for that thread
// (DEFER_TASKRUN) without delaying anybody: it has nothing else to do than to come for them. It
// sleeps in the kernel; a read of an eventfd, always under way in the ring, wakes it.
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "transfer/io_engine.h"

namespace vkv {
namespace {

// The best first; each works on older kernels than the one before.
struct Rung {
  UringSetup setup;
  unsigned flags;
};
constexpr Rung kLadder[] = {
    {UringSetup::kDeferred,
     IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL},  // 6.1
    {UringSetup::kCooperative, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL},      // 5.19
    {UringSetup::kPlain, 0},
};

constexpr auto kPause = std::chrono::milliseconds(1);
constexpr int kSubmitAttemptsMax = 1000;
constexpr size_t kBusyRequests = 8;

class UringEngine final : public IoEngine {
 public:
  explicit UringEngine(const IoEngineOptions& options) : options_(options) {}

  ~UringEngine() override {
    if (thread_.joinable()) {
      {
        const std::lock_guard lock(mutex_);
        VKV_CHECK(in_flight_ == 0);
        stopping_ = true;
        wake();
        news_.notify_all();
      }
      thread_.join();
    }
    if (bell_ >= 0) close(bell_);
  }

  Status start() {
    bell_ = eventfd(0, EFD_CLOEXEC);
    if (bell_ < 0) return refused("eventfd", errno);
    try {
      thread_ = std::thread([this] { serve(); });
    } catch (const std::system_error& error) {
      return {Code::kUnsupported, std::string("no thread for io_uring: ") + error.what()};
    }
    std::unique_lock lock(mutex_);
    news_.wait(lock, [&] { return is_set_up_ || !set_up_.ok(); });
    return set_up_;
  }

  void submit(IoRequest& request) override {
    std::unique_lock lock(mutex_);
    while (in_flight_ >= options_.in_flight_max) {
      wants_room_ = true;
      news_.wait(lock);
    }
    if (submit_error_ != 0) {
      request.error = submit_error_;
      request.over = true;
      return;
    }
    handed_over_.push_back(&request);
    // With much under way the thread comes by in a moment anyhow: that costs less than waking it.
    if (in_flight_++ < kBusyRequests + handed_over_.size()) wake();
  }

  void wait(IoRequest& request) override {
    std::unique_lock lock(mutex_);
    request.is_awaited = true;
    news_.wait(lock, [&] { return request.over; });
  }

  bool done(IoRequest& request) override {
    const std::lock_guard lock(mutex_);
    return request.over;
  }

  bool register_memory(std::span<const std::span<std::byte>> regions) override {
    std::unique_lock lock(mutex_);
    VKV_CHECK(in_flight_ == 0 && regions_.empty() && to_register_.empty());
    if (regions.empty() || submit_error_ != 0) return false;
    to_register_.assign(regions.begin(), regions.end());
    wake();
    news_.wait(lock, [&] { return to_register_.empty(); });
    return !regions_.empty();
  }

  std::string_view name() const override { return "io_uring"; }

 private:
  static Status refused(const std::string& call, int error) {
    return {Code::kUnsupported, "io_uring is refused here (" + call + ": " +
                                    std::system_category().message(error) +
                                    "); choose the threads engine"};
  }

  // Has the thread look at what there is. Lock held.
  void wake() {
    if (!is_asleep_) return;
    is_asleep_ = false;
    const uint64_t one = 1;
    VKV_CHECK(write(bell_, &one, sizeof(one)) == sizeof(one));
  }

  // The thread, from here on. ---------------------------------------------------------------------

  void serve() {
    const Status status = set_up();
    std::unique_lock lock(mutex_);
    set_up_ = status;
    is_set_up_ = status.ok();
    news_.notify_all();
    if (!is_set_up_) return;
    while (submit_error_ == 0 && !(stopping_ && !is_listening_)) {
      // 1. Nothing may be under way, not even what listens, while older kernels register memory.
      if (!to_register_.empty() && !is_listening_) register_regions();
      if (!stopping_ && to_register_.empty() && !is_listening_) listen();
      while (!handed_over_.empty()) {
        prepare(*handed_over_.front());
        handed_over_.pop_front();
      }
      // 2. Asleep, others hand over more.
      is_asleep_ = true;
      lock.unlock();
      const int submitted = io_uring_submit_and_wait(&ring_, 1);
      lock.lock();
      is_asleep_ = false;
      // 3. Take what the kernel took and what is over.
      note_submitted(submitted);
      take_completions();
    }
    drain(lock);
    lock.unlock();
    // The kernel takes a ring apart in its own time; the file, and the lock on it, is to be free
    // when the engine is gone.
    if (has_fixed_file_) (void)io_uring_unregister_files(&ring_);
    io_uring_queue_exit(&ring_);
  }

  Status set_up() {
    int result = -EINVAL;
    for (const Rung& rung : kLadder) {
      if (options_.setup != UringSetup::kBest && options_.setup != rung.setup) continue;
      // One entry more than requests: the one that listens.
      result = io_uring_queue_init(options_.in_flight_max + 1, &ring_, rung.flags);
      if (result != 0) continue;
      // Saves the kernel a look into the table of files each time; works without, too.
      has_fixed_file_ = io_uring_register_files(&ring_, &options_.file, 1) == 0;
      return {};
    }
    return refused("io_uring_queue_init", -result);
  }

  void register_regions() {
    std::vector<iovec> vectors;
    for (const std::span<std::byte> region : to_register_)
      vectors.push_back({.iov_base = region.data(), .iov_len = region.size()});
    const auto count = static_cast<unsigned>(vectors.size());
    if (io_uring_register_buffers(&ring_, vectors.data(), count) == 0) regions_ = to_register_;
    to_register_.clear();
    news_.notify_all();
  }

  void listen() {
    io_uring_sqe* const entry = next_entry();
    io_uring_prep_read(entry, bell_, &heard_, sizeof(heard_), 0);
    io_uring_sqe_set_data(entry, nullptr);
    is_listening_ = true;
    prepared_.push_back(nullptr);
  }

  // Never null: the ring has an entry for every request in flight, and what it took is counted.
  io_uring_sqe* next_entry() {
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    VKV_CHECK(entry != nullptr);
    return entry;
  }

  // Puts the part of the request that is still missing into the ring.
  void prepare(IoRequest& request) {
    io_uring_sqe* const entry = next_entry();
    const int file = has_fixed_file_ ? 0 : options_.file;  // 0: index of the registered one
    std::byte* const data = request.data + request.bytes_done;
    const auto byte_count = static_cast<unsigned>(next_call_bytes(request, options_));
    const uint64_t offset = request.file_offset + request.bytes_done;
    const int region = region_of(data, byte_count);
    if (request.kind == IoRequest::Kind::kSync) {
      io_uring_prep_fsync(entry, file, IORING_FSYNC_DATASYNC);
    } else if (request.kind == IoRequest::Kind::kRead) {
      if (region >= 0) {
        io_uring_prep_read_fixed(entry, file, data, byte_count, offset, region);
      } else {
        io_uring_prep_read(entry, file, data, byte_count, offset);
      }
    } else if (region >= 0) {
      io_uring_prep_write_fixed(entry, file, data, byte_count, offset, region);
    } else {
      io_uring_prep_write(entry, file, data, byte_count, offset);
    }
    if (has_fixed_file_) entry->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(entry, &request);
    prepared_.push_back(&request);
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

  // What io_uring_submit_and_wait() gave: the kernel took so many of the prepared entries, or said
  // why not.
  void note_submitted(int result) {
    for (int i = 0; i < result; ++i) prepared_.pop_front();
    if (result >= 0 || result == -EINTR) {
      attempts_ = 0;
      return;
    }
    // EAGAIN, EBUSY: the kernel is short of memory or of room for completions.
    const bool may_pass = result == -EAGAIN || result == -EBUSY;
    if (may_pass && ++attempts_ < kSubmitAttemptsMax) return std::this_thread::sleep_for(kPause);
    // The entries stay in the ring, so the ring must never be submitted again.
    submit_error_ = -result;
  }

  void take_completions() {
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(&ring_, &completion) == 0) {
      auto* const request = static_cast<IoRequest*>(io_uring_cqe_get_data(completion));
      const int result = completion->res;
      io_uring_cqe_seen(&ring_, completion);
      if (request == nullptr) {
        is_listening_ = false;
        // Without it nobody could be woken.
        const bool may_pass = result >= 0 || result == -EINTR || result == -EAGAIN;
        if (!may_pass && submit_error_ == 0) submit_error_ = -result;
      } else if (must_continue(*request, result)) {
        if (submit_error_ == 0) prepare(*request);
        if (submit_error_ != 0) fail(*request);
      } else {
        finish(*request);
      }
    }
    if (std::exchange(is_news_, false)) news_.notify_all();
  }

  void finish(IoRequest& request) {
    request.over = true;
    --in_flight_;
    // Whoever sleeps is not woken for what others wait for.
    is_news_ |= request.is_awaited || std::exchange(wants_room_, false);
  }
  void fail(IoRequest& request) {
    request.error = submit_error_;
    finish(request);
  }

  // After a ring is of no more use: what the kernel has comes back, the rest failed; then nothing
  // happens any more until the end. Lock held, but not while asleep.
  void drain(std::unique_lock<std::mutex>& lock) {
    for (IoRequest* const request : std::exchange(prepared_, {}))
      if (request != nullptr) fail(*request);
    for (IoRequest* const request : std::exchange(handed_over_, {})) fail(*request);
    to_register_.clear();
    news_.notify_all();
    while (in_flight_ > 0) {
      lock.unlock();
      io_uring_cqe* completion = nullptr;
      if (io_uring_wait_cqe(&ring_, &completion) < 0) std::this_thread::sleep_for(kPause);
      lock.lock();
      take_completions();
    }
    news_.wait(lock, [&] { return stopping_; });
  }

  const IoEngineOptions options_;
  int bell_ = -1;  // an eventfd
  std::thread thread_;

  // Of the thread alone.
  io_uring ring_{};
  bool has_fixed_file_ = false;
  bool is_listening_ = false;
  uint64_t heard_ = 0;
  int attempts_ = 0;                 // to submit, in vain, in a row
  std::deque<IoRequest*> prepared_;  // in the ring, and not taken by the kernel; nullptr: listens

  std::mutex mutex_;  // of all below
  std::condition_variable news_;
  Status set_up_;
  bool is_set_up_ = false;
  bool is_asleep_ = false;
  bool stopping_ = false;
  bool wants_room_ = false;  // somebody sleeps until one is over, any
  bool is_news_ = false;     // for somebody who sleeps
  uint32_t in_flight_ = 0;   // handed over and not over
  std::deque<IoRequest*> handed_over_;
  std::vector<std::span<std::byte>> to_register_, regions_;
  int submit_error_ = 0;  // errno of the submission that broke the ring
};

}  // namespace

Result<std::unique_ptr<IoEngine>> make_uring_engine(const IoEngineOptions& options) {
  auto engine = std::make_unique<UringEngine>(options);
  VKV_TRY(engine->start());
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace vkv
