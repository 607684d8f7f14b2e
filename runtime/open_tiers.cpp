// open_tiers.cpp: on the CPU DRAM, on CUDA HBM and pinned DRAM below it; a store file below either.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/open_tiers.h"

#include <algorithm>
#include <string>
#include <utility>

#include "cpu/cpu_backend.h"
#include "cpu/thread_plan.h"
#include "cpu/threads.h"
#include "kernels/gpu_backend.h"
#include "kernels/gpu_devices.h"
#include "runtime/open_options.h"
#include "transfer/huge_pages.h"
#include "transfer/node_memory.h"
#include "transfer/slab_source.h"

namespace vkv {
namespace {

// Pinned at once.
constexpr uint64_t kPinnedSlabBytes = uint64_t{64} << 20;

// Read ahead, where options do not say: a layer of Qwen2.5-7B with 128K tokens of `visual2`, which
// a question reads whole; a step has time for a fourth of it. Of a small budget no more than this
// part.
constexpr uint64_t kAheadBytes = uint64_t{64} << 20;
constexpr uint64_t kAheadPart = 16;

// The CPU that attends beside a GPU stays awake from layer to layer: a GPU has one done in less.
constexpr int kHostAwakeUs = 2000;

// The NVMe tier's reads and writes get a CPU of their own where there are so many: fewer are all
// needed.
constexpr int kSpareForIoFrom = 8;

// By turns on the nodes that have threads.
std::unique_ptr<MemoryPool> make_dram(uint64_t bytes_max, const ThreadPlan& plan) {
  std::unique_ptr<MemorySource> source;  // none: the system decides
  if (plan.memory_nodes.size() > 1) {
    Result<std::unique_ptr<NodeMemory>> nodes = NodeMemory::make(plan.memory_nodes, bytes_max);
    if (nodes.ok()) source = std::move(nodes.value());
  }
  return std::make_unique<MemoryPool>(bytes_max, std::move(source));
}

// nullptr: no NVMe tier.
Result<std::unique_ptr<BlockStore>> open_store(const CacheOptions& options) {
  if (options.nvme_bytes_max == 0) return std::unique_ptr<BlockStore>();
  return BlockStore::open({.path = options.store_path,
                           .use = options.keep_store ? StoreUse::kKeep : StoreUse::kTemporary,
                           .bytes_max = options.nvme_bytes_max,
                           .write_bytes_per_day = options.nvme_write_bytes_per_day,
                           .io = options.io_backend});
}

Result<Tiers> open_cuda(const CacheOptions& options) {
  Tiers tiers;
  std::unique_ptr<Backend> host;
  // One CPU is left to whoever queues the GPU's work.
  const ThreadPlan plan = plan_threads_here(
      {.threads = options.threads, .spare = 1, .gpu_node = gpu_numa_node(options.device_index)});
  if (options.host_share != 0) {
    VKV_TRY_ASSIGN(cpu, make_cpu_backend({.plan = plan, .awake_us = kHostAwakeUs}));
    host = std::move(cpu);
  }
  std::unique_ptr<MemorySource> host_pages = std::make_unique<HugePages>();
  if (!plan.memory_nodes.empty())  // near the GPU
    host_pages = std::make_unique<NodePolicySource>(std::move(host_pages), plan.memory_nodes);
  VKV_TRY_ASSIGN(engine, make_gpu_engine({.shape = options.shape,
                                          .device_index = options.device_index,
                                          .stream = options.stream,
                                          .host = std::move(host),
                                          .host_pages = std::move(host_pages)}));
  const uint64_t least = engine.work_bytes + least_hbm_bytes(options);
  if (options.hbm_bytes_max < least)
    return Status(
        Code::kOutOfMemory,
        "the hbm budget of " + std::to_string(options.hbm_bytes_max) +
            " bytes is too small: this model and these options need at least " +
            std::to_string(least) + ", " + std::to_string(engine.work_bytes) +
            " of them for the kernels (smaller extents or fewer recent tokens need less)");
  tiers.backend = std::move(engine.backend);

  // 1. All of HBM at once.
  auto hbm_source = std::make_unique<SlabSource>(std::move(engine.device_memory), 0, nullptr);
  const uint64_t slab_bytes =
      (options.hbm_bytes_max - engine.work_bytes) / kExtentAlignment * kExtentAlignment;
  VKV_TRY(hbm_source->add_slab(slab_bytes));
  tiers.hbm =
      std::make_unique<MemoryPool>(Tier::kHbm, options.hbm_bytes_max, std::move(hbm_source));
  VKV_TRY(tiers.hbm->charge(engine.work_bytes, "work memory of the kernels"));

  // 2. Of it, room to read ahead.
  const uint64_t spare = options.hbm_bytes_max - least;
  const uint64_t usual = std::min(kAheadBytes, spare / kAheadPart);
  const uint64_t ahead_bytes =
      (options.hbm_ahead_bytes == UINT64_MAX ? usual : options.hbm_ahead_bytes) / kExtentAlignment *
      kExtentAlignment;
  if (ahead_bytes > 0) {
    VKV_TRY_ASSIGN(ahead, tiers.hbm->allocate(ahead_bytes, "blocks that are read ahead"));
    tiers.ahead = std::move(ahead);
    VKV_TRY(tiers.backend->give_ahead_room(tiers.ahead.bytes()));
  }

  // 3. DRAM as it is needed.
  tiers.dram = std::make_unique<MemoryPool>(options.dram_bytes_max);
  VKV_TRY(tiers.dram->charge(engine.host_bytes, "the CPU's part of attention"));
  const uint64_t share = options.dram_bytes_max / 8 / kExtentAlignment * kExtentAlignment;
  auto pinned_source = std::make_unique<SlabSource>(
      std::move(engine.pinned_memory), std::min(kPinnedSlabBytes, share), tiers.dram.get());
  pinned_source->grow_ahead();
  tiers.pinned =
      std::make_unique<MemoryPool>(Tier::kDram, options.dram_bytes_max, std::move(pinned_source));
  VKV_TRY_ASSIGN(store, open_store(options));
  tiers.store = std::move(store);
  return Result<Tiers>(std::move(tiers));
}

}  // namespace

Result<Tiers> open_tiers(const CacheOptions& options) {
  if (options.device == Device::kCuda) return open_cuda(options);
  Tiers tiers;
  const bool leaves_one = options.nvme_bytes_max > 0 && usable_threads() >= kSpareForIoFrom;
  const ThreadPlan plan =
      plan_threads_here({.threads = options.threads, .spare = leaves_one ? 1 : 0});
  VKV_TRY_ASSIGN(backend, make_cpu_backend({.plan = plan}));
  tiers.backend = std::move(backend);
  VKV_TRY_ASSIGN(store, open_store(options));
  tiers.store = std::move(store);
  tiers.dram = make_dram(options.dram_bytes_max, plan);
  return Result<Tiers>(std::move(tiers));
}

}  // namespace vkv
