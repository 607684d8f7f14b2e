// watch.h: how long work reports its progress, and learns that it shall stop.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "vkv/status.h"

namespace vkv {

// Work asks often (every layer of a few hundred tokens), so that a stop is felt within a second.
struct Watch {
  // Called on the thread that called the work; `total` stays the same over one call. May be empty.
  std::function<void(uint64_t done, uint64_t total)> progress;
  const std::atomic<bool>* cancel = nullptr;  // true: stop with kCancelled; may be null

  void report(uint64_t done, uint64_t total) const {
    if (progress) progress(done, total);
  }
  Status check() const {
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed))
      return {Code::kCancelled, "stopped on request"};
    return {};
  }
};

}  // namespace vkv
