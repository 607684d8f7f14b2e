// attention.cpp: pieces, waves, and the merge.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <utility>

namespace vkv {
namespace {

// Queries whose partials are merged together. A constant, so that a budget never changes a result;
// large enough that a block read from NVMe serves many queries.
constexpr int kQueryChunk = 256;
constexpr size_t kScratchBytes = size_t{4} << 20;  // when one partial needs less

}  // namespace

std::vector<const ExtentUse*> uses_of(const LayerState& state, bool exact) {
  const bool by_originals = exact && !state.originals.empty();
  std::vector<const ExtentUse*> uses;
  for (const ExtentUse& use : state.extents)
    if (!by_originals || use.extent->kind() != ExtentKind::kLow) uses.push_back(&use);
  for (const ExtentUse& use : by_originals ? state.originals : state.promoted) uses.push_back(&use);
  return uses;
}

Status in_sequence(const Status& status, SequenceId id) {
  return {status.code(),
          "sequence " + std::to_string(static_cast<uint64_t>(id)) + ": " + status.message()};
}

size_t Attention::scratch_bytes(const KvShape& shape, uint64_t dram_bytes_max) {
  const size_t partial_bytes = sizeof(float) * kQueryChunk * static_cast<size_t>(shape.q_heads) *
                               static_cast<size_t>(shape.head_dim + 1);
  return std::max<size_t>(partial_bytes, std::min<uint64_t>(kScratchBytes, dram_bytes_max / 16));
}

Result<std::unique_ptr<Attention>> Attention::make(const KvShape& shape, float scale,
                                                   const Placement& placement, Stager* stager,
                                                   MemoryPool& pool, double host_share) {
  MemoryBuffer scratch;
  if (!placement.backend().cuts_attention()) {
    const size_t bytes = scratch_bytes(shape, pool.bytes_max());
    VKV_TRY_ASSIGN(allocated, pool.allocate(bytes, "partial results of attention"));
    scratch = std::move(allocated);
  }
  return std::unique_ptr<Attention>(
      new Attention(shape, scale, placement, stager, pool, std::move(scratch), host_share));
}

Status Attention::run(int layer, std::span<const AttentionTask> tasks) {
  if (backend_.cuts_attention()) return run_whole(layer, tasks);
  const std::vector<Piece> pieces = cut(layer, tasks);
  for (size_t begin = 0; begin < pieces.size();) {
    const size_t end = wave_end(pieces, begin);
    VKV_TRY(run_wave(layer, pieces, begin, end, tasks));
    begin = end;
  }
  return {};
}

void Attention::report(CacheStats& stats) const {
  planner_.report(stats);
  stats.host_read_bytes = read_bytes_.host;
  stats.link_read_bytes = read_bytes_.link;
  stats.ahead_read_bytes = read_bytes_.ahead;
  stats.ahead_read_rate = ahead_.rate();
}

std::vector<Attention::Piece> Attention::cut(int layer,
                                             std::span<const AttentionTask> tasks) const {
  std::vector<Piece> pieces;
  for (const AttentionTask& task : tasks) {
    const LayerState& state = task.sequence->layers[static_cast<size_t>(layer)];
    const int exact_begin = task.q_len - task.exact_count;
    cut_queries(task, uses_of(state, /*exact=*/false), 0, exact_begin, pieces);
    cut_queries(task, uses_of(state, /*exact=*/true), exact_begin, task.q_len, pieces);
  }
  return pieces;
}

void Attention::cut_queries(const AttentionTask& task, std::span<const ExtentUse* const> uses,
                            int q_begin, int q_end, std::vector<Piece>& pieces) {
  for (; q_begin < q_end; q_begin += kQueryChunk) {
    Piece piece{.task = &task,
                .q_begin = q_begin,
                .q_count = std::min(kQueryChunk, q_end - q_begin),
                .first = true};
    for (const ExtentUse* use : uses) {
      piece.use = use;
      pieces.push_back(piece);
      piece.first = false;
    }
    piece.use = nullptr;
    pieces.push_back(piece);
  }
}

size_t Attention::wave_end(std::span<const Piece> pieces, size_t begin) const {
  size_t floats = 0, end = begin;
  for (; end < pieces.size(); ++end) {
    const Piece& piece = pieces[end];
    if (!piece.first) floats += out_floats(piece.q_count) + lse_floats(piece.q_count);
    if (floats * sizeof(float) > scratch_.bytes().size()) break;
  }
  VKV_CHECK(end > begin);
  return end;
}

Status Attention::run_wave(int layer, std::span<const Piece> pieces, size_t begin, size_t end,
                           std::span<const AttentionTask> tasks) {
  // 1. Give every piece a place for its partial; start the reads.
  std::vector<Target> targets;
  float* free_floats = reinterpret_cast<float*>(scratch_.data());
  std::vector<size_t> in_dram, on_nvme;
  for (size_t i = begin; i < end; ++i) {
    const Piece& piece = pieces[i];
    if (piece.first) {
      targets.push_back({piece.task->out + out_floats(piece.q_begin),
                         piece.task->lse + lse_floats(piece.q_begin)});
    } else {
      targets.push_back({free_floats, free_floats + out_floats(piece.q_count)});
      free_floats += out_floats(piece.q_count) + lse_floats(piece.q_count);
    }
    const bool on_disk = piece.use != nullptr && piece.use->extent->tier() == Tier::kNvme;
    (on_disk ? on_nvme : in_dram).push_back(i);
  }
  if (stager_ != nullptr) VKV_TRY(stager_->prefetch(upcoming(layer, pieces, begin, tasks), layer));

  const auto compute_some = [&](std::span<const size_t> some,
                                std::span<const std::byte* const> bases) {
    std::vector<const Piece*> chosen;
    std::vector<Target> chosen_targets;
    for (size_t i : some) {
      chosen.push_back(&pieces[i]);
      chosen_targets.push_back(targets[i - begin]);
    }
    return compute(layer, chosen, chosen_targets, bases);
  };

  // 2. What lies in DRAM first, while the reads go on.
  std::vector<const std::byte*> bases;
  for (size_t i : in_dram)
    bases.push_back(pieces[i].use ? pieces[i].use->extent->memory() : nullptr);
  if (!in_dram.empty()) VKV_TRY(compute_some(in_dram, bases));

  // 3. Then the rest in groups of half the slots, so that the other half reads ahead meanwhile.
  const size_t group_max =
      stager_ ? std::max<size_t>(1, static_cast<size_t>(stager_->slot_count()) / 2) : 1;
  for (size_t first = 0; first < on_nvme.size();) {
    bases.clear();
    std::vector<size_t> group;
    Status status;
    std::set<const Extent*> held;
    for (; first < on_nvme.size() && held.size() < group_max; ++first) {
      const std::shared_ptr<Extent>& extent = pieces[on_nvme[first]].use->extent;
      Result<const std::byte*> base = stager_->acquire(extent);
      if (!base.ok()) {
        status = in_sequence(base.status(), pieces[on_nvme[first]].task->id);
        break;
      }
      held.insert(extent.get());
      group.push_back(on_nvme[first]);
      bases.push_back(base.value());
    }
    if (status.ok()) status = compute_some(group, bases);
    for (const Extent* extent : held) stager_->release(*extent);
    VKV_TRY(status);
    const size_t next = first < on_nvme.size() ? on_nvme[first] : end;
    VKV_TRY(stager_->prefetch(upcoming(layer, pieces, next, tasks), layer));
  }

  return merge(pieces.subspan(begin, end - begin), targets);
}

// What the pieces of a chunk found, in their order, into the task's own out; so is what earlier
// waves found.
Status Attention::merge(std::span<const Piece> pieces, std::span<const Target> targets) const {
  std::vector<PartialView> partials;
  partials.reserve(2 * pieces.size());  // spans point into it
  std::vector<MergeItem> items;
  for (size_t begin = 0, end = 0; begin < pieces.size(); begin = end) {
    const Piece& piece = pieces[begin];
    end = begin + 1;
    while (end < pieces.size() && !pieces[end].first) ++end;
    if (piece.first && end == begin + 1) continue;  // alone: it is there already

    float* const out = piece.task->out + out_floats(piece.q_begin);
    float* const lse = piece.task->lse + lse_floats(piece.q_begin);
    const size_t first = partials.size();
    if (!piece.first) partials.push_back({out, lse});
    for (size_t i = begin; i < end; ++i) partials.push_back({targets[i].out, targets[i].lse});
    items.push_back({.head_dim = shape_.head_dim,
                     .row_count = lse_floats(piece.q_count),
                     .partials = std::span<const PartialView>(partials).subspan(first),
                     .out = out,
                     .lse = lse});
  }
  return items.empty() ? Status() : backend_.merge(items);
}

Status Attention::compute(int layer, std::span<const Piece* const> pieces,
                          std::span<const Target> targets,
                          std::span<const std::byte* const> bases) {
  std::vector<std::vector<BlockView>> views(pieces.size());
  std::vector<AttendItem> items(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = *pieces[i];
    const LayerState& state = piece.task->sequence->layers[static_cast<size_t>(layer)];
    AttendItem& item = items[i];
    item = {.shape = shape_,
            .scale = scale_,
            .q_len = piece.q_count,
            .q = piece.task->q + out_floats(piece.q_begin),
            .k_mean = state.mean_values(),
            .node = bases[i] == nullptr ? kUnknownNode : pool_.node_of(bases[i]),
            .out = targets[i].out,
            .lse = targets[i].lse};
    if (piece.use != nullptr && piece.use->extent->kind() == ExtentKind::kOriginal) {
      item.open = piece.use->extent->originals(shape_, bases[i]);
    } else if (piece.use != nullptr) {
      piece.use->extent->append_views(shape_, bases[i], piece.use->live_begin(), views[i]);
      item.blocks = views[i];
    } else {
      // Later queries of the call see later open tokens: leave those out for this chunk.
      const int later = piece.task->q_len - (piece.q_begin + piece.q_count);
      item.open = state.open.tokens();
      item.open.token_count -= later;
      item.causal = true;
    }
  }
  return backend_.attend(items);
}

std::vector<std::shared_ptr<Extent>> Attention::upcoming(
    int layer, std::span<const Piece> pieces, size_t begin,
    std::span<const AttentionTask> tasks) const {
  std::vector<std::shared_ptr<Extent>> extents;
  std::set<const Extent*> seen;
  const size_t wanted = static_cast<size_t>(stager_->slot_count());
  const auto add = [&](const std::shared_ptr<Extent>& extent) {
    if (extent->tier() == Tier::kNvme && seen.insert(extent.get()).second)
      extents.push_back(extent);
  };
  for (size_t i = begin; i < pieces.size() && extents.size() < wanted; ++i)
    if (pieces[i].use != nullptr) add(pieces[i].use->extent);
  // An engine that has no pieces wants all of this layer.
  for (int ahead = pieces.empty() ? 0 : 1; ahead < shape_.layers && extents.size() < wanted;
       ++ahead) {
    const size_t next_layer = static_cast<size_t>((layer + ahead) % shape_.layers);
    for (const AttentionTask& task : tasks)
      for (const ExtentUse* use :
           uses_of(task.sequence->layers[next_layer], task.exact_count == task.q_len))
        if (extents.size() < wanted) add(use->extent);
  }
  return extents;
}

}  // namespace vkv
