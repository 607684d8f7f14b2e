// prefix_table.h: media whose KV is in the cache, for the next request that has the same.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "tools/mllm/generate.h"
#include "tools/server/kv_need.h"
#include "vkv/saved.h"

namespace vkv {

// Pure bookkeeping: it erases no sequence. Not thread-safe.
class PrefixTable {
 public:
  // Counts one more user, or returns null.
  const MediaPrefix* use(const SequenceKey& key);

  // With one user. The key is not there.
  const MediaPrefix* add(const SequenceKey& key, const MediaPrefix& prefix, const KvNeed& need);

  void give_back(const SequenceKey& key);  // one user less

  // What nobody uses now, and the memory set aside for it.
  const KvNeed& idle_need() const { return idle_need_; }
  uint64_t count() const { return entries_.size(); }

  struct Dropped {
    MediaPrefix prefix;
    KvNeed need;
  };
  // Takes out the one that nobody uses and that was used longest ago; nothing if all are in use.
  std::optional<Dropped> drop_oldest();

 private:
  struct Entry {
    MediaPrefix prefix;
    KvNeed need;
    uint64_t users = 0;
    uint64_t last_use = 0;
  };

  std::map<SequenceKey, Entry> entries_;
  KvNeed idle_need_;
  uint64_t clock_ = 0;
};

}  // namespace vkv
