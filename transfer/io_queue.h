// io_queue.h: what waits for an engine, the most urgent first.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <set>
#include <vector>

#include "transfer/io_engine.h"

namespace vkv {

// What waits is begun in this order; less urgent kinds leave room in the kernel's queue for more
// urgent ones.
enum class IoPriority : uint8_t {
  kNow = 0,        // somebody stands still for it
  kAhead = 1,      // will be needed
  kWriteBack = 2,  // makes room
};
inline constexpr int kIoPriorityCount = 3;

// When somebody will stand still for a request that is not over. Of one priority the earliest
// begins first, and what is due is no longer left room for: it is needed now.
using IoDeadline = std::chrono::steady_clock::time_point;
inline constexpr IoDeadline kNoDeadline = IoDeadline::max();

// Stays where it is from submit() until wait() or cancel() has returned.
struct QueuedRequest {
  IoRequest request;
  IoPriority priority = IoPriority::kNow;
  IoDeadline deadline = kNoDeadline;
  // The queue's.
  uint64_t serial = 0;     // of submission: among equals the first comes first
  bool has_begun = false;  // it is the engine's, or is about to be
};

// Thread-safe. Every call moves the queue on; it has no thread of its own.
class IoQueue {
 public:
  IoQueue(IoEngine& engine, uint32_t in_flight_max)
      : engine_(engine), in_flight_max_(in_flight_max) {}

  // Never waits for room: what finds none is queued.
  void submit(QueuedRequest& queued);

  // Returns when it is over. One that has not begun begins at once, whatever is under way.
  void wait(QueuedRequest& queued);

  // True: it had not begun, and never will. False: it has, and has to be waited for.
  bool cancel(QueuedRequest& queued);

  // Whether wait() would not block.
  bool done(QueuedRequest& queued);

  // Requests that began behind their deadline.
  uint64_t late_count() const;

 private:
  using Requests = std::vector<QueuedRequest*>;
  struct EarliestFirst {
    bool operator()(const QueuedRequest* a, const QueuedRequest* b) const {
      return a->deadline != b->deadline ? a->deadline < b->deadline : a->serial < b->serial;
    }
  };
  using Waiting = std::set<QueuedRequest*, EarliestFirst>;

  // All with mutex_ held.
  Waiting& waiting_like(const QueuedRequest& queued) {
    return waiting_[static_cast<size_t>(queued.priority)];
  }
  void begin(QueuedRequest& queued, IoDeadline now);
  Requests begin_next();
  // Without it: the kernel takes its time, and others have to be able to finish meanwhile.
  void hand_over(const Requests& requests);

  IoEngine& engine_;
  const uint32_t in_flight_max_;
  mutable std::mutex mutex_;  // of all below
  std::array<Waiting, kIoPriorityCount> waiting_;
  Requests begun_;
  uint64_t next_serial_ = 0;
  uint64_t late_count_ = 0;
};

}  // namespace vkv
