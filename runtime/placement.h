// placement.h: which extents stay in DRAM when they do not all fit.
// SPDX-License-Identifier: Apache-2.0
//
// Decode reads every block of a sequence once a step, layer by layer: what was used last is needed
// last, so recency says nothing. What counts is value: originals go first, then low-precision
// blocks; of a kind, early layers stay, so that reads of later layers have a head start. Not
// thread-safe: the cache's lock guards it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <set>
#include <string_view>
#include <vector>

#include "runtime/extent.h"
#include "transfer/block_store.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

class Placement {
 public:
  // `store` may be nullptr: no NVMe tier. Both outlive every extent.
  Placement(MemoryPool& pool, BlockStore* store, uint64_t block_bytes_max)
      : pool_(pool), store_(store), block_bytes_max_(block_bytes_max) {}

  // Memory in DRAM, demoting extents of less value until it fits. Errors: kOutOfMemory naming the
  // tier that is full, kIo when a demotion could not be written; nothing is lost.
  Result<MemoryBuffer> allocate(uint64_t byte_count, std::string_view purpose);

  // Takes a sealed extent into account, and demotes what exceeds the share of blocks. Errors:
  // kOutOfMemory naming the tier that is full, kIo; the extent is then gone.
  Result<std::shared_ptr<Extent>> admit(int layer, ExtentContent content, MemoryBuffer bytes);

  // Moves all originals that lie in DRAM to NVMe. Errors: kOutOfMemory, kIo.
  Status demote_originals();

  // Called by the extent's destructor.
  void forget(Extent& extent);

  uint64_t demoted_bytes() const { return demoted_bytes_; }
  uint64_t dram_extents() const { return resident_.size(); }
  uint64_t nvme_extents() const { return nvme_extents_; }
  uint64_t original_bytes(Tier tier) const { return original_bytes_[static_cast<size_t>(tier)]; }

 private:
  struct LeastValueFirst {
    bool operator()(const Extent* a, const Extent* b) const;
  };

  // Moves extents of least value to NVMe, at least `byte_count` bytes of them.
  Status demote(uint64_t byte_count);
  // Writes, waits, and frees the DRAM of those that were written.
  Status write_out(const std::vector<Extent*>& extents);
  uint64_t& original_bytes_of(const Extent& extent);

  MemoryPool& pool_;
  BlockStore* store_;
  const uint64_t block_bytes_max_;               // in DRAM
  std::set<Extent*, LeastValueFirst> resident_;  // in DRAM
  uint64_t resident_bytes_ = 0;
  uint64_t nvme_extents_ = 0;
  std::array<uint64_t, kTierCount> original_bytes_{};
  uint64_t demoted_bytes_ = 0;
  uint64_t next_serial_ = 0;
};

}  // namespace vkv
