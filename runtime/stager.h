// stager.h: extents read from NVMe ahead of the layer that needs them.
// SPDX-License-Identifier: Apache-2.0
//
// A few slots of DRAM. The cache names the extents that attention will need next, in order; free
// slots start reading them. Which extents are staged never changes a result, only the waiting.
// Not thread-safe: the cache's lock guards it.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/extent.h"
#include "runtime/layer_clock.h"
#include "transfer/block_store.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

struct StagerStats {
  uint64_t needed_count = 0;  // extents that attention asked for
  uint64_t hit_count = 0;     // of them, with the read already issued
  uint64_t ready_count = 0;   // of them, with the read already finished
  double wait_seconds = 0;
};

struct StagerOptions {
  int slot_count = 0;
  uint64_t slot_bytes = 0;
  int layer_count = 0;
};

class Stager {
 public:
  // Takes slots out of the pool, and registers them with the store, which
  // is read from no more when the stager is gone. Errors: kOutOfMemory.
  static Result<std::unique_ptr<Stager>> make(Backend& backend, MemoryPool& pool, BlockStore& store,
                                              const StagerOptions& options);
  ~Stager();

  int slot_count() const { return static_cast<int>(slots_.size()); }

  // Starts reading the first slot_count() of `upcoming` that are not staged, in slots that hold
  // none of them. `layer` is the one that computes now; a read is due when its own layer's turn
  // comes, by the time that layers took lately. Never waits for a read that is wanted. Errors of
  // reads show at acquire().
  // may_wait: for an engine that still reads a slot, not for reads.
  Status prefetch(std::span<const std::shared_ptr<Extent>> upcoming, int layer,
                  bool may_wait = false);

  // The bytes of an extent, waiting for its read. Valid until release() of the extent. At most
  // slot_count() extents may be held. Errors: kIo, kDataLoss; the extent is then not held.
  Result<const std::byte*> acquire(const std::shared_ptr<Extent>& extent);
  // The engine may go on reading it until `mark` (Backend::mark()).
  void release(const Extent& extent, uint64_t mark = 0);

  // Drops what is staged for extents that nothing else refers to, so that they are freed.
  void drop_orphans();

  const StagerStats& stats() const { return stats_; }

 private:
  struct Slot {
    MemoryBuffer buffer;
    std::shared_ptr<Extent> extent;     // nullptr: free
    IoTicket ticket = IoTicket::kNone;  // kNone: read, or free
    Status failure;                     // of the read
    bool held = false;
    uint64_t last_use = 0;
    uint64_t mark = 0;  // until then the engine reads what was there before
  };

  Stager(Backend& backend, BlockStore& store, std::vector<Slot> slots, int layer_count)
      : backend_(backend), store_(store), slots_(std::move(slots)), clock_of_layers_(layer_count) {}

  Slot* find(const Extent& extent);
  // A slot for another extent: free, or the one unused for longest and not in `keep`. One that the
  // engine still reads only where it may be waited for. nullptr: none.
  Slot* vacate(const std::set<const Extent*>& keep, bool may_wait);
  Status start_read(Slot& slot, std::shared_ptr<Extent> extent, IoPriority priority,
                    IoDeadline deadline);
  void finish_read(Slot& slot);
  void clear(Slot& slot);

  Backend& backend_;
  BlockStore& store_;
  std::vector<Slot> slots_;
  std::unordered_map<const Extent*, size_t> slot_of_;
  LayerClock clock_of_layers_;
  StagerStats stats_;
  uint64_t clock_ = 0;
};

}  // namespace vkv
