// io_queue.h: what waits for an engine, the most urgent first.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <mutex>
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

// Stays where it is from submit() until wait() or cancel() has returned.
struct QueuedRequest {
  IoRequest request;
  IoPriority priority = IoPriority::kNow;
  bool has_begun = false;  // the queue's: it is the engine's, or is about to be
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

 private:
  using Requests = std::vector<QueuedRequest*>;

  // Both with mutex_ held.
  void begin(QueuedRequest& queued);
  Requests begin_next();
  // Without it: the kernel takes its time, and others have to be able to finish meanwhile.
  void hand_over(const Requests& requests);

  IoEngine& engine_;
  const uint32_t in_flight_max_;
  std::mutex mutex_;  // of all below
  std::array<std::deque<QueuedRequest*>, kIoPriorityCount> waiting_;
  Requests begun_;
};

}  // namespace vkv
