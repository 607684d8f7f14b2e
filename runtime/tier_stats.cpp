// tier_stats.cpp: from pools, placement, store and stager.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/tier_stats.h"

namespace vkv {

void report_tiers(const CacheOptions& options, const Tiers& tiers, const Placement& placement,
                  const Stager* stager, CacheStats& stats) {
  for (const MemoryPool* pool : {tiers.hbm.get(), tiers.dram.get()})
    if (pool != nullptr)
      stats.tier[static_cast<size_t>(pool->tier())] = {
          .bytes_used = pool->bytes_used(),
          .bytes_peak = pool->bytes_peak(),
          .bytes_max = pool->bytes_max(),
          .extent_count = placement.extent_count(pool->tier()),
          .original_bytes = placement.original_bytes(pool->tier())};
  stats.demoted_bytes = placement.demoted_bytes();
  stats.risen_bytes = placement.risen_bytes();
  if (stager == nullptr) return;
  const BlockStoreStats store = tiers.store->stats();
  stats.tier[static_cast<size_t>(Tier::kNvme)] = {
      .bytes_used = store.bytes_reserved,
      .bytes_peak = store.bytes_peak,
      .bytes_max = options.nvme_bytes_max,
      .extent_count = placement.extent_count(Tier::kNvme),
      .original_bytes = placement.original_bytes(Tier::kNvme)};
  stats.nvme_read_bytes = store.read_bytes;
  stats.nvme_written_bytes = store.written_bytes;
  stats.nvme_payload_bytes = store.payload_bytes;
  stats.nvme_index_written_bytes = store.index_written_bytes;
  stats.nvme_write_bytes_left = store.write_bytes_left;
  const StagerStats staged = stager->stats();
  stats.nvme_read_count = staged.needed_count;
  stats.prefetch_hit_count = staged.hit_count;
  stats.prefetch_ready_count = staged.ready_count;
  stats.nvme_wait_seconds = staged.wait_seconds;
}

}  // namespace vkv
