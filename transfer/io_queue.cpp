// io_queue.cpp: who begins when.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/io_queue.h"

#include <algorithm>

namespace vkv {

void IoQueue::submit(QueuedRequest& queued) {
  Requests next;
  {
    const std::lock_guard lock(mutex_);
    waiting_[static_cast<size_t>(queued.priority)].push_back(&queued);
    next = begin_next();
  }
  hand_over(next);
}

void IoQueue::wait(QueuedRequest& queued) {
  Requests next;
  {
    const std::lock_guard lock(mutex_);
    if (!queued.has_begun) {
      begin(queued);
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
  std::erase(waiting_[static_cast<size_t>(queued.priority)], &queued);
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

void IoQueue::begin(QueuedRequest& queued) {
  std::erase(waiting_[static_cast<size_t>(queued.priority)], &queued);
  queued.has_begun = true;
  begun_.push_back(&queued);
}

// All of the kernel's queue is for what is needed now, 3/4 and 1/2 of it for the rest; one at
// least.
IoQueue::Requests IoQueue::begin_next() {
  Requests next;
  for (size_t priority = 0; priority < waiting_.size(); ++priority) {
    const size_t begun_max =
        std::max<size_t>(1, in_flight_max_ * (kIoPriorityCount + 1 - priority) / 4);
    if (waiting_[priority].empty()) continue;
    if (begun_.size() >= begun_max) {
      std::erase_if(begun_, [&](QueuedRequest* begun) { return engine_.done(begun->request); });
    }
    while (!waiting_[priority].empty() && begun_.size() < begun_max) {
      next.push_back(waiting_[priority].front());
      begin(*next.back());
    }
  }
  return next;
}

// Whoever waits for a request may forget it as soon as the engine has it.
void IoQueue::hand_over(const Requests& requests) {
  for (QueuedRequest* const queued : requests) engine_.submit(queued->request);
}

}  // namespace vkv
