// attention_whole.cpp: attention of an engine that cuts by itself: blocks of all tiers in one call.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "runtime/attention.h"

namespace vkv {
namespace {

constexpr int kStepQueriesMax = 16;  // of a sequence: a decode step, or a draft to verify
constexpr int kOfWindow = -1;        // label of copies whose timing says nothing of steps

bool is_step_of(std::span<const AttentionTask> tasks) {
  return std::ranges::all_of(
      tasks, [](const AttentionTask& task) { return task.q_len <= kStepQueriesMax; });
}

}  // namespace

Result<Attention::Staged> Attention::stage(int layer, std::span<const AttentionTask> tasks) {
  Staged staged;
  if (stager_ == nullptr) return Result<Staged>(std::move(staged));
  std::vector<std::shared_ptr<Extent>> own;
  std::map<const Extent*, SequenceId> owners;
  for (const AttentionTask& task : tasks)
    for (const ExtentUse* use :
         uses_of(task.sequence->layers[static_cast<size_t>(layer)], /*exact=*/false))
      if (use->extent->tier() == Tier::kNvme && owners.emplace(use->extent.get(), task.id).second)
        own.push_back(use->extent);
  if (own.size() > static_cast<size_t>(stager_->slot_count()))
    return Status(Code::kOutOfMemory, "dram tier: layer " + std::to_string(layer) + " has " +
                                          std::to_string(own.size()) +
                                          " extents on NVMe, staging has room for " +
                                          std::to_string(stager_->slot_count()) +
                                          "; raise prefetch_extents, or give blocks more memory");
  VKV_TRY(stager_->prefetch(own, layer, /*may_wait=*/true));
  VKV_TRY(stager_->prefetch(upcoming(layer, {}, 0, tasks), layer));
  for (const std::shared_ptr<Extent>& extent : own) {
    const Result<const std::byte*> base = stager_->acquire(extent);
    if (!base.ok()) {
      VKV_TRY(unstage(staged));
      return in_sequence(base.status(), owners.at(extent.get()));
    }
    staged[extent.get()] = base.value();
  }
  return Result<Staged>(std::move(staged));
}

Status Attention::unstage(const Staged& staged) {
  if (staged.empty()) return {};
  const Result<uint64_t> mark = backend_.mark();
  for (const auto& [extent, base] : staged) stager_->release(*extent, mark.ok() ? mark.value() : 0);
  return mark.status();
}

std::shared_ptr<const KeptViews> Attention::keep_views(const LayerState& state) {
  const std::shared_ptr<const KeptViews>& kept = state.kept_views;
  const bool as_before = kept && kept->move_count == placement_.move_count();
  if (as_before && kept->extent_count == state.extents.size()) return kept;
  const auto in_hbm = [](const ExtentUse& use) {
    return use.extent->tier() == Tier::kHbm && !use.live;
  };
  if (!state.promoted.empty() || !std::ranges::all_of(state.extents, in_hbm)) {
    state.kept_views = nullptr;
    return nullptr;
  }

  auto made = std::make_shared<KeptViews>();
  if (as_before) made->views = kept->views;
  for (size_t i = as_before ? kept->extent_count : 0; i < state.extents.size(); ++i) {
    const Extent& extent = *state.extents[i].extent;
    extent.append_views(shape_, extent.memory(), nullptr, made->views);
  }
  Result<MemoryCharge> charge = MemoryCharge::make(
      pool_, sizeof(KeptViews) + made->views.size() * sizeof(BlockView), "views of blocks");
  if (!charge.ok()) return nullptr;
  made->charge = std::move(charge.value());
  made->extent_count = state.extents.size();
  made->move_count = placement_.move_count();
  made->id = ++kept_count_;
  return state.kept_views = std::move(made);
}

Attention::TaskBlocks Attention::blocks_of(const LayerState& state, const Staged& staged) {
  VKV_CHECK(state.originals.empty());  // such an engine keeps none
  TaskBlocks blocks;
  blocks.kept = keep_views(state);
  if (blocks.kept) return blocks;
  const std::vector<const ExtentUse*> uses = uses_of(state, /*exact=*/false);
  size_t count = 0;
  for (const ExtentUse* use : uses) count += use->extent->blocks().size();
  blocks.views.reserve(count);
  blocks.dram_bytes.reserve(count);
  blocks.readable.reserve(count);
  for (const ExtentUse* use : uses) {
    const Extent& extent = *use->extent;
    const size_t first = blocks.views.size();
    const auto found = staged.find(&extent);
    const bool is_staged = found != staged.end();
    extent.append_views(shape_, is_staged ? found->second : extent.memory(), use->live_begin(),
                        blocks.views);
    // Masks and shared headers lie in the engine's memory.
    const bool in_dram = extent.tier() == Tier::kDram, whole = !extent.headers() && !use->live;
    if (!in_dram && !is_staged) {
      blocks.dram_bytes.resize(blocks.views.size());
      blocks.readable.resize(blocks.views.size(), whole);
      continue;
    }
    for (size_t i = 0; i < extent.blocks().size(); ++i) {
      uint64_t bytes = in_dram || is_staged ? extent.blocks()[i].record_bytes : 0;
      if (in_dram && backend_.take_ahead(blocks.views[first + i])) {
        blocks.ahead_bytes += bytes;
        bytes = 0;
      }
      blocks.dram_bytes.push_back(bytes);
      blocks.readable.push_back(whole);
    }
  }
  return blocks;
}

Status Attention::run_whole(int layer, std::span<const AttentionTask> tasks) {
  VKV_TRY_ASSIGN(staged, stage(layer, tasks));
  const Status attended = attend_whole(layer, tasks, staged);
  VKV_TRY(unstage(staged));
  return attended;
}

Status Attention::attend_whole(int layer, std::span<const AttentionTask> tasks,
                               const Staged& staged) {
  const bool is_step = is_step_of(tasks);
  const auto blocks_of_all = [&] {
    std::vector<TaskBlocks> blocks;
    for (const AttentionTask& task : tasks)
      blocks.push_back(blocks_of(task.sequence->layers[static_cast<size_t>(layer)], staged));
    return blocks;
  };
  std::vector<TaskBlocks> blocks = blocks_of_all();
  // The first layer of a window. Through the link a block would be read for every few queries.
  const bool none_ahead =
      std::ranges::all_of(blocks, [](const TaskBlocks& task) { return task.ahead_bytes == 0; });
  if (!is_step && none_ahead && backend_.ahead_room() > 0) {
    VKV_TRY(bring(layer, tasks, backend_.ahead_room(), kOfWindow));
    blocks = blocks_of_all();
  }
  std::vector<AttendItem> items;
  for (const AttentionTask& task : tasks) {
    const LayerState& state = task.sequence->layers[static_cast<size_t>(layer)];
    items.push_back({.shape = shape_,
                     .scale = scale_,
                     .q_len = task.q_len,
                     .q = task.q,
                     .k_mean = state.mean_values(),
                     .open = state.open.tokens(),
                     .causal = true,
                     .out = task.out,
                     .lse = task.lse});
  }
  const uint64_t host_bytes = is_step && backend_.can_share(items) ? share(blocks) : 0;
  uint64_t link_bytes = 0, ahead_bytes = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    items[i].blocks = blocks[i].all();
    items[i].blocks_id = blocks[i].kept ? blocks[i].kept->id : 0;
    ahead_bytes += blocks[i].ahead_bytes;
    link_bytes +=
        std::accumulate(blocks[i].dram_bytes.begin(), blocks[i].dram_bytes.end(), uint64_t{0});
  }
  if (is_step) {
    read_bytes_.host += host_bytes;
    read_bytes_.link += link_bytes;
    read_bytes_.ahead += ahead_bytes;
  }
  if (host_bytes == 0) return backend_.attend(items);
  std::vector<AttendItem> host_items = items;
  for (size_t i = 0; i < items.size(); ++i) {
    host_items[i].blocks = blocks[i].host_views;
    host_items[i].blocks_id = 0;
    host_items[i].open = {};
    host_items[i].causal = false;
  }
  return backend_.attend_shared(items, host_items, link_bytes);
}

uint64_t Attention::share(std::vector<TaskBlocks>& blocks) {
  while (const auto timing = backend_.next_share_timing()) planner_.add(*timing);
  const auto shareable = [](const TaskBlocks& task) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < task.views.size(); ++i)
      if (task.readable[i]) bytes += task.dram_bytes[i];
    return bytes;
  };
  uint64_t in_dram = 0;
  for (const TaskBlocks& task : blocks) in_dram += shareable(task);
  const uint64_t wanted = planner_.host_bytes(in_dram);
  if (wanted == 0) return 0;

  // Of each task in proportion: taken / own < wanted / in_dram, to half a block.
  const double fraction = static_cast<double>(wanted) / static_cast<double>(in_dram);
  uint64_t given = 0;
  for (TaskBlocks& task : blocks) {
    const double share = fraction * static_cast<double>(shareable(task));
    uint64_t taken = 0;
    std::vector<BlockView> kept;
    for (size_t i = task.views.size(); i-- > 0;) {
      const uint64_t bytes = task.readable[i] ? task.dram_bytes[i] : 0;
      const bool takes = bytes > 0 && static_cast<double>(taken + bytes / 2) < share;
      (takes ? task.host_views : kept).push_back(task.views[i]);
      if (!takes) continue;
      taken += bytes;
      task.dram_bytes[i] = 0;
    }
    std::reverse(kept.begin(), kept.end());
    std::reverse(task.host_views.begin(), task.host_views.end());
    task.views = std::move(kept);
    given += taken;
  }
  return given;
}

Status Attention::read_ahead(int layer, std::span<const AttentionTask> tasks) {
  const uint64_t room = backend_.ahead_room();
  if (room == 0) return {};
  while (const auto timing = backend_.next_ahead_timing())
    if (timing->label >= 0) ahead_.add(timing->label, *timing);
  const int next = (layer + 1) % shape_.layers;
  if (is_step_of(tasks)) return bring(next, tasks, ahead_.bytes(next, room), next);
  return bring(next, tasks, room, kOfWindow);
}

Status Attention::bring(int layer, std::span<const AttentionTask> tasks, uint64_t wanted,
                        int label) {
  std::vector<BlockView> views;
  std::vector<size_t> group_ends;
  uint64_t bytes = 0;
  for (const AttentionTask& task : tasks) {
    const LayerState& state = task.sequence->layers[static_cast<size_t>(layer)];
    for (const ExtentUse* use : uses_of(state, /*exact=*/false)) {
      const Extent& extent = *use->extent;
      if (extent.tier() != Tier::kDram || bytes >= wanted) continue;
      const size_t first = views.size();
      extent.append_views(shape_, extent.memory(), use->live_begin(), views);
      size_t count = 0;
      for (; count < extent.blocks().size() && bytes < wanted; ++count)
        bytes += extent.blocks()[count].record_bytes;
      views.resize(first + count);
      group_ends.push_back(views.size());
    }
  }
  std::vector<std::span<const BlockView>> groups;
  size_t first = 0;
  for (const size_t end : group_ends) {
    groups.push_back(std::span(views).subspan(first, end - first));
    first = end;
  }
  return backend_.read_ahead(label, shape_, groups).status();
}

}  // namespace vkv
