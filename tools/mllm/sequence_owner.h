// sequence_owner.h: a sequence of a cache that is erased when nobody needs it any more.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "vkv/cache.h"

namespace vkv {

class SequenceOwner {
 public:
  SequenceOwner(Cache* cache, SequenceId sequence) : cache_(cache), sequence_(sequence) {}
  SequenceOwner(SequenceOwner&& other) noexcept
      : cache_(std::exchange(other.cache_, nullptr)), sequence_(other.sequence_) {}
  SequenceOwner& operator=(SequenceOwner&& other) noexcept {
    std::swap(cache_, other.cache_);
    std::swap(sequence_, other.sequence_);
    return *this;
  }
  // The error of the work that ends here is the one to report, so that of erase is passed over.
  ~SequenceOwner() {
    if (cache_ != nullptr) (void)cache_->erase(sequence_);
  }

  SequenceId id() const { return sequence_; }

  // The sequence is the caller's from now on.
  SequenceId release() {
    cache_ = nullptr;
    return sequence_;
  }

 private:
  Cache* cache_;  // null: owns nothing
  SequenceId sequence_;
};

}  // namespace vkv
