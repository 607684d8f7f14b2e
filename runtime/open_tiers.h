// open_tiers.h: the engine and the memory of a cache, as its options ask for them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "runtime/base/backend.h"
#include "runtime/placement.h"
#include "transfer/block_store.h"
#include "transfer/memory_pool.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct Tiers {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<MemoryPool> dram;    // on CUDA of tables, and of the slabs that `pinned` cuts
  std::unique_ptr<MemoryPool> hbm;     // nullptr on the CPU
  std::unique_ptr<MemoryPool> pinned;  // nullptr on the CPU
  MemoryBuffer ahead;                  // in HBM, where the engine reads ahead
  std::unique_ptr<BlockStore> store;   // nullptr: no NVMe tier

  // Memory of the host that the engine reads, and that a disk reads and writes.
  MemoryPool& io_pool() const { return pinned ? *pinned : *dram; }

  PlacementTiers placement(const CacheOptions& options) const {
    return {.backend = *backend,
            .pool = hbm ? *hbm : *dram,
            .host_pool = *dram,
            .pinned = pinned.get(),
            .store = store.get(),
            .block_bytes_max = hbm ? options.hbm_block_bytes_max : options.dram_block_bytes_max,
            .pinned_block_bytes_max = options.dram_block_bytes_max};
  }
};

// `options` with defaults filled in. Errors: kOutOfMemory for an HBM budget that cannot hold what
// every call needs, naming the least that would do; kUnsupported without CUDA or such a device;
// kIo, kCuda.
Result<Tiers> open_tiers(const CacheOptions& options);

}  // namespace vkv
