// prefix_table.cpp: media whose KV is in the cache.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/prefix_table.h"

namespace vkv {

const MediaPrefix* PrefixTable::use(const SequenceKey& key) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return nullptr;
  Entry& entry = found->second;
  if (entry.users++ == 0) idle_need_ -= entry.need;
  entry.last_use = ++clock_;
  return &entry.prefix;
}

const MediaPrefix* PrefixTable::add(const SequenceKey& key, const MediaPrefix& prefix,
                                    const KvNeed& need) {
  const auto [place, is_new] = entries_.emplace(key, Entry{prefix, need, 1, ++clock_});
  VKV_CHECK(is_new);
  return &place->second.prefix;
}

void PrefixTable::give_back(const SequenceKey& key) {
  const auto found = entries_.find(key);
  VKV_CHECK(found != entries_.end() && found->second.users > 0);
  if (--found->second.users == 0) idle_need_ += found->second.need;
}

std::optional<PrefixTable::Dropped> PrefixTable::drop_oldest() {
  auto oldest = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (it->second.users > 0) continue;
    if (oldest == entries_.end() || it->second.last_use < oldest->second.last_use) oldest = it;
  }
  if (oldest == entries_.end()) return std::nullopt;
  const Dropped dropped = {oldest->second.prefix, oldest->second.need};
  idle_need_ -= dropped.need;
  entries_.erase(oldest);
  return dropped;
}

}  // namespace vkv
