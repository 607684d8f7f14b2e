// write_admission.h: which sequences are worth writing when the write budget is short.
// SPDX-License-Identifier: Apache-2.0
//
// A sequence that is saved and never restored was written in vain, and most are: a first save says
// nothing of a second use. So while less than half of a day's budget is left, a sequence is worth
// it that was asked for before, again and again, or that goes on from one that was restored. The
// half is for blocks that DRAM cannot hold: without them, sequences that run now would fail.
#pragma once

#include <cstdint>
#include <deque>
#include <map>

#include "vkv/saved.h"
#include "vkv/status.h"

namespace vkv {

struct WriteRequest {
  SequenceKey key;
  bool goes_on = false;  // from a sequence that was restored
  uint64_t byte_count = 0;
  uint64_t bytes_left = 0;  // UINT64_MAX: no limit
  uint64_t bytes_per_day = 0;
};

// Not thread-safe.
class WriteAdmission {
 public:
  // Somebody wants the sequence back, whether it is there or not.
  void asked_for(const SequenceKey& key);

  // Errors: kOutOfMemory saying what is left and what is needed; nothing was written then.
  Status admit(const WriteRequest& request);

  uint64_t refused_count() const { return refused_count_; }

 private:
  std::map<SequenceKey, uint32_t> asks_;  // of the last keys
  std::deque<SequenceKey> order_;         // of their first asks
  uint64_t refused_count_ = 0;
};

}  // namespace vkv
