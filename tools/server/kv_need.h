// kv_need.h: the most memory that the KV of a request can take, so that it is had before it starts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "vkv/options.h"
#include "vkv/stats.h"

namespace vkv {

struct KvNeed {
  uint64_t open_bytes = 0;    // 16-bit tokens and tables: in the engine's own memory
  uint64_t record_bytes = 0;  // encoded blocks and originals: in any tier

  KvNeed& operator+=(const KvNeed& other);
  KvNeed& operator-=(const KvNeed& other);
};

// Tokens that a sequence gets beyond those that it was forked with.
struct KvTokens {
  uint64_t visual = 0;     // of the prompt
  uint64_t other = 0;      // of the prompt
  uint64_t generated = 0;  // at most
  uint64_t forked = 0;     // that it shares with another sequence: their blocks count there
};

// An upper bound: every token in the larger of the two codecs that it may get, a short block at
// the end of each window, rounding and tables. tests/kv_need_test.cpp compares it with what is
// taken. Options with defaults filled in.
KvNeed sequence_need(const CacheOptions& options, const KvTokens& tokens, int window_tokens_max);

// What sequences may take together.
class KvBudget {
 public:
  // Of a cache without sequences; used: its stats. Of the NVMe tier, `slow_fraction` is for them.
  // Windows of prompts come one at a time: one is set aside.
  KvBudget(const CacheOptions& options, const CacheStats& used, int window_tokens_max,
           double slow_fraction);

  bool fits(const KvNeed& all) const;
  uint64_t bytes_max() const { return fast_bytes_ + slow_bytes_; }

 private:
  uint64_t fast_bytes_ = 0;         // the engine's memory
  uint64_t fast_record_bytes_ = 0;  // of it, for records
  uint64_t slow_bytes_ = 0;         // the tiers below
};

}  // namespace vkv
