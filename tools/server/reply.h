// reply.h: the way back of one request: the engine writes, whoever asked reads and may give up.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "vkv/status.h"

namespace vkv {

struct ReplyUsage {
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;  // of them, whose KV was there already
  uint64_t answer_tokens = 0;
};

// How an answer ended. `status` says why there is no more of it; else it is complete.
struct ReplyEnd {
  Status status;
  bool hit_length = false;  // it ended at max_tokens, not by itself
  ReplyUsage usage;
};

// Any thread may call.
class Reply {
 public:
  // What came since the last call; `end` once, with the last of the text.
  struct News {
    std::string text;
    std::optional<ReplyEnd> end;
  };

  void add(std::string_view text) {
    if (text.empty()) return;
    const std::lock_guard lock(mutex_);
    news_.text += text;
    changed_.notify_one();
  }

  void finish(ReplyEnd end) {
    const std::lock_guard lock(mutex_);
    news_.end = std::move(end);
    changed_.notify_one();
  }

  // Returns at once when there is something; nothing after the time.
  News wait(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, time, [&] { return !news_.text.empty() || news_.end; });
    return std::exchange(news_, {});
  }

  // Nobody waits any more: the engine frees all at its next step.
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  const std::atomic<bool>& cancelled() const { return cancelled_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  News news_;
  std::atomic<bool> cancelled_ = false;
};

}  // namespace vkv
