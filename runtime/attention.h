// attention.h: one layer's attention of several sequences, over blocks in DRAM and on NVMe.
// SPDX-License-Identifier: Apache-2.0
//
// Every extent, and the open tokens, give one partial; partials are merged in the order of sealing,
// promoted copies after that, the open tokens last. Queries of a new question read the originals of
// low tokens, where they are kept, instead of their codes. Neither that order nor how the queries
// are cut depends on the tier, so the result does not either. An engine that cuts and merges itself
// gets all blocks of a sequence at once, in the same order.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "runtime/ahead_planner.h"
#include "runtime/base/backend.h"
#include "runtime/placement.h"
#include "runtime/sequence.h"
#include "runtime/share_planner.h"
#include "runtime/stager.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

// A checked request.
struct AttentionTask {
  SequenceId id{};
  const SequenceState* sequence = nullptr;
  int q_len = 0;
  int exact_count = 0;       // of the queries, the last ones: they read originals
  const float* q = nullptr;  // [q_len, q_heads, head_dim], as out and lse in the engine's memory
  float* out = nullptr;      // [q_len, q_heads, head_dim]
  float* lse = nullptr;      // [q_len, q_heads]
};

// What a query reads besides the open tokens, in the order of merging.
std::vector<const ExtentUse*> uses_of(const LayerState& state, bool exact);

// The same error, naming the sequence.
Status in_sequence(const Status& status, SequenceId id);

class Attention {
 public:
  // placement: of all extents, with the backend. `stager` may be nullptr: no NVMe tier. pool: of
  // DRAM, and of scratch memory, which an engine that cuts itself does not need. host_share: as in
  // CacheOptions. Errors: kOutOfMemory.
  static Result<std::unique_ptr<Attention>> make(const KvShape& shape, float scale,
                                                 const Placement& placement, Stager* stager,
                                                 MemoryPool& pool, double host_share);

  // Of the scratch memory: the partial of one chunk, and up to 4 MiB where a sixteenth of the DRAM
  // budget allows it.
  static size_t scratch_bytes(const KvShape& shape, uint64_t dram_bytes_max);

  // Its part of the stats: who read what lies in DRAM.
  void report(CacheStats& stats) const;

  // Errors: kIo and kDataLoss naming the sequence, and those of the backend.
  Status run(int layer, std::span<const AttentionTask> tasks);

  // When the layer is done: has the engine bring blocks of the one that comes next, the oldest
  // first: for a step as the planner says, and for a window, which reads each block for every few
  // queries and computes for long, as much as there is room for. Errors: those of the backend.
  Status read_ahead(int layer, std::span<const AttentionTask> tasks);

 private:
  // One partial of one query chunk of one task.
  struct Piece {
    const AttentionTask* task = nullptr;
    int q_begin = 0;
    int q_count = 0;
    const ExtentUse* use = nullptr;  // nullptr: the open tokens
    bool first = false;              // of its chunk: writes to the task's out itself
  };
  // Where a piece's partial goes.
  struct Target {
    float* out = nullptr;
    float* lse = nullptr;
  };

  // Bytes of blocks in DRAM that steps read, by way.
  struct ReadBytes {
    uint64_t host = 0, link = 0, ahead = 0;
  };
  // Where extents of a layer lie in staging memory.
  using Staged = std::map<const Extent*, const std::byte*>;
  // Blocks of one task, some of which the CPU may take.
  struct TaskBlocks {
    std::shared_ptr<const KeptViews> kept;  // all of them; else
    std::vector<BlockView> views;
    std::vector<uint64_t> dram_bytes;  // of each; 0: not in DRAM, or read ahead
    std::vector<bool> readable;        // by the CPU: all its parts are in DRAM
    std::vector<BlockView> host_views;
    uint64_t ahead_bytes = 0;  // read ahead

    std::span<const BlockView> all() const { return kept ? kept->views : views; }
  };

  Attention(const KvShape& shape, float scale, const Placement& placement, Stager* stager,
            MemoryPool& pool, MemoryBuffer scratch, double host_share)
      : planner_(host_share),
        ahead_(shape.layers),
        shape_(shape),
        scale_(scale),
        placement_(placement),
        backend_(placement.backend()),
        stager_(stager),
        pool_(pool),
        scratch_(std::move(scratch)) {}

  // All in one call of the engine.
  Status run_whole(int layer, std::span<const AttentionTask> tasks);
  // All that the layer has on NVMe, in staging memory until unstage(). Errors: kOutOfMemory where
  // it does not fit there, kIo, kDataLoss; nothing is staged then.
  Result<Staged> stage(int layer, std::span<const AttentionTask> tasks);
  Status unstage(const Staged& staged);
  Status attend_whole(int layer, std::span<const AttentionTask> tasks, const Staged& staged);
  // All blocks of a task; what was read ahead is taken.
  TaskBlocks blocks_of(const LayerState& state, const Staged& staged);
  // Of a layer that lies in HBM as a whole; else nullptr, as where DRAM has no room for them.
  std::shared_ptr<const KeptViews> keep_views(const LayerState& state);
  // Gives blocks in DRAM to the CPU, the newest first, as the planner says. Returns their bytes.
  uint64_t share(std::vector<TaskBlocks>& blocks);
  Status bring(int layer, std::span<const AttentionTask> tasks, uint64_t wanted, int label);
  std::vector<Piece> cut(int layer, std::span<const AttentionTask> tasks) const;
  static void cut_queries(const AttentionTask& task, std::span<const ExtentUse* const> uses,
                          int q_begin, int q_end, std::vector<Piece>& pieces);
  // The pieces from `begin` whose partials fit the scratch memory together.
  size_t wave_end(std::span<const Piece> pieces, size_t begin) const;
  Status run_wave(int layer, std::span<const Piece> pieces, size_t begin, size_t end,
                  std::span<const AttentionTask> tasks);
  Status compute(int layer, std::span<const Piece* const> pieces, std::span<const Target> targets,
                 std::span<const std::byte* const> bases);
  // Partials of pieces of one wave, into the outputs of their tasks.
  Status merge(std::span<const Piece> pieces, std::span<const Target> targets) const;
  // NVMe extents from pieces[begin] on, then those of the layers that come next.
  std::vector<std::shared_ptr<Extent>> upcoming(int layer, std::span<const Piece> pieces,
                                                size_t begin,
                                                std::span<const AttentionTask> tasks) const;

  size_t out_floats(int q_count) const {
    return static_cast<size_t>(q_count) * static_cast<size_t>(shape_.q_heads * shape_.head_dim);
  }
  size_t lse_floats(int q_count) const {
    return static_cast<size_t>(q_count) * static_cast<size_t>(shape_.q_heads);
  }

  SharePlanner planner_;
  AheadPlanner ahead_;
  ReadBytes read_bytes_;
  const KvShape shape_;
  const float scale_;
  const Placement& placement_;
  Backend& backend_;
  Stager* stager_;
  MemoryPool& pool_;         // knows the NUMA nodes of what lies in DRAM
  uint64_t kept_count_ = 0;  // so far
  MemoryBuffer scratch_;     // partials of a wave; empty where the engine cuts
};

}  // namespace vkv
