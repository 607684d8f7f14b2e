// open_tiers.cpp: on the CPU DRAM and a store file.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/open_tiers.h"

#include <utility>

#include "cpu/cpu_backend.h"

namespace vkv {

Result<Tiers> open_tiers(const CacheOptions& options) {
  if (options.device == Device::kCuda)
    return Status(Code::kUnsupported, "device cuda: there is no engine for it yet");
  Tiers tiers;
  VKV_TRY_ASSIGN(backend, make_cpu_backend({.threads = options.threads}));
  tiers.backend = std::move(backend);
  if (options.nvme_bytes_max > 0) {
    VKV_TRY_ASSIGN(store, BlockStore::open({.path = options.store_path,
                                            .bytes_max = options.nvme_bytes_max,
                                            .io = options.io_backend}));
    tiers.store = std::move(store);
  }
  tiers.dram = std::make_unique<MemoryPool>(options.dram_bytes_max);
  return Result<Tiers>(std::move(tiers));
}

}  // namespace vkv
