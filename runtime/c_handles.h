// c_handles.h: the caches that the C ABI opened, by handles that are never given twice.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "runtime/c_structs.h"
#include "vkv/cache.h"
#include "vkv/vkv.h"

namespace vkv {

// A cache and what pointers that its calls hand out point to.
struct OpenedCache {
  explicit OpenedCache(std::unique_ptr<Cache> opened);

  std::unique_ptr<Cache> cache;
  const OptionsInC options;
  const std::string engine;
  const std::string io_engine;
  int call_count = 0;  // under way; guarded by CacheHandles
};

// Thread-safe. A handle is the number of a vkv_open, made a pointer and never followed.
class CacheHandles {
 public:
  // A cache in use: it stays open as long as this lives.
  class Use {
   public:
    Use(CacheHandles& handles, std::shared_ptr<OpenedCache> opened)
        : handles_(&handles), opened_(std::move(opened)) {}
    Use(Use&&) = default;
    ~Use() {
      if (opened_) handles_->end_use(*opened_);
    }

    OpenedCache& opened() const { return *opened_; }
    Cache* operator->() const { return opened_->cache.get(); }

   private:
    CacheHandles* handles_;
    std::shared_ptr<OpenedCache> opened_;
  };

  // Those of the process. Never destroyed: calls may come until it ends.
  static CacheHandles& all();

  vkv_cache* add(std::unique_ptr<Cache> cache);

  // Errors: kInvalidArgument for NULL, a handle that was closed, a pointer that is no handle.
  Result<Use> use(vkv_cache* handle);

  // No call finds the cache any more; waits for those under way and frees it. Errors: as use().
  Status close(vkv_cache* handle);

 private:
  using Number = uintptr_t;

  Status no_such(Number number) const;
  void end_use(OpenedCache& opened);

  std::mutex mutex_;
  std::condition_variable call_ended_;
  std::map<Number, std::shared_ptr<OpenedCache>> opened_;
  Number next_ = 1;
};

}  // namespace vkv
