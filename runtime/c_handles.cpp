// c_handles.cpp: counted numbers as handles, and who still uses what is closed.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/c_handles.h"

namespace vkv {

OpenedCache::OpenedCache(std::unique_ptr<Cache> new_cache)
    : cache(std::move(new_cache)),
      options(cache->options()),
      engine(cache->engine()),
      io_engine(cache->io_engine()) {}

CacheHandles& CacheHandles::all() {
  static CacheHandles* const handles = new CacheHandles;
  return *handles;
}

vkv_cache* CacheHandles::add(std::unique_ptr<Cache> cache) {
  auto opened = std::make_shared<OpenedCache>(std::move(cache));
  const std::lock_guard lock(mutex_);
  opened_.emplace(next_, std::move(opened));
  return reinterpret_cast<vkv_cache*>(next_++);
}

Status CacheHandles::no_such(Number number) const {
  if (number == 0) return {Code::kInvalidArgument, "cache is NULL"};
  if (number < next_)
    return {Code::kInvalidArgument,
            "cache " + std::to_string(number) + " is closed: vkv_close was called with it"};
  return {Code::kInvalidArgument, "cache is no handle that vkv_open gave"};
}

Result<CacheHandles::Use> CacheHandles::use(vkv_cache* handle) {
  const auto number = reinterpret_cast<Number>(handle);
  const std::lock_guard lock(mutex_);
  const auto found = opened_.find(number);
  if (found == opened_.end()) return no_such(number);
  ++found->second->call_count;
  return Use(*this, found->second);
}

void CacheHandles::end_use(OpenedCache& opened) {
  const std::lock_guard lock(mutex_);
  if (--opened.call_count == 0) call_ended_.notify_all();
}

Status CacheHandles::close(vkv_cache* handle) {
  const auto number = reinterpret_cast<Number>(handle);
  std::unique_lock lock(mutex_);
  const auto found = opened_.find(number);
  if (found == opened_.end()) return no_such(number);
  const std::shared_ptr<OpenedCache> opened = std::move(found->second);
  opened_.erase(found);
  call_ended_.wait(lock, [&] { return opened->call_count == 0; });
  lock.unlock();
  opened->cache.reset();  // here, not with a Use that is still being destroyed
  return {};
}

}  // namespace vkv
