// io_queue.cpp: who begins when.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/io_queue.h"

#include <algorithm>

namespace vkv {

void IoQueue::submit(QueuedRequest& queued) {
  Requests next;
  {
    const std::lock_guard lock(mutex_);
    queued.serial = next_serial_++;
    waiting_like(queued).insert(&queued);
    next = begin_next();
  }
  hand_over(next);
}

void IoQueue::wait(QueuedRequest& queued) {
  Requests next;
  {
    const std::lock_guard lock(mutex_);
    if (!queued.has_begun) {
      begin(queued, std::chrono::steady_clock::now());
      next.push_back(&queued);
    }
  }
  hand_over(next);
  engine_.wait(queued.request);
  {
    const std::lock_guard lock(mutex_);
    std::erase(begun_, &queued);
    next = begin_next();
  }
  hand_over(next);
}

bool IoQueue::cancel(QueuedRequest& queued) {
  const std::lock_guard lock(mutex_);
  if (queued.has_begun) return false;
  waiting_like(queued).erase(&queued);
  return true;
}

bool IoQueue::done(QueuedRequest& queued) {
  Requests next;
  bool is_over = false;
  {
    const std::lock_guard lock(mutex_);
    is_over = queued.has_begun && engine_.done(queued.request);
    next = begin_next();
  }
  hand_over(next);
  return is_over;
}

uint64_t IoQueue::late_count() const {
  const std::lock_guard lock(mutex_);
  return late_count_;
}

void IoQueue::begin(QueuedRequest& queued, IoDeadline now) {
  waiting_like(queued).erase(&queued);
  queued.has_begun = true;
  if (queued.deadline < now) ++late_count_;
  begun_.push_back(&queued);
}

// All of the kernel's queue is for what is needed now, 3/4 and 1/2 of it for the rest; one at
// least.
IoQueue::Requests IoQueue::begin_next() {
  Requests next;
  const IoDeadline now = std::chrono::steady_clock::now();
  for (size_t priority = 0; priority < waiting_.size(); ++priority) {
    Waiting& waiting = waiting_[priority];
    const size_t usual_max =
        std::max<size_t>(1, in_flight_max_ * (kIoPriorityCount + 1 - priority) / 4);
    if (waiting.empty()) continue;
    if (begun_.size() >= usual_max) {
      std::erase_if(begun_, [&](QueuedRequest* begun) { return engine_.done(begun->request); });
    }
    while (!waiting.empty()) {
      QueuedRequest& first = **waiting.begin();
      if (begun_.size() >= (first.deadline <= now ? in_flight_max_ : usual_max)) break;
      next.push_back(&first);
      begin(first, now);
    }
  }
  return next;
}

// Whoever waits for a request may forget it as soon as the engine has it.
void IoQueue::hand_over(const Requests& requests) {
  for (QueuedRequest* const queued : requests) engine_.submit(queued->request);
}

}  // namespace vkv
