// gpu_attend.cpp: plans, and the memory that their launches need.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_attend.h"

#include <algorithm>
#include <string>

namespace vkv {
namespace {

AttendSource source_of(const AttendItem& item) {
  AttendSource source{.q = item.q,
                      .k_mean = item.k_mean,
                      .open_k = item.open.k,
                      .open_v = item.open.v,
                      .out = item.out,
                      .lse = item.lse,
                      .block_count = static_cast<int>(item.blocks.size()),
                      .open_count = item.open.token_count,
                      .q_len = item.q_len,
                      .q_heads = item.shape.q_heads,
                      .kv_heads = item.shape.kv_heads,
                      .head_dim = item.shape.head_dim,
                      .scale = item.scale,
                      .open_codec = item.open.codec,
                      .causal = item.causal};
  if (!has_kept_table(item)) source.any_rotated = any_rotated(item.blocks);
  return source;
}

template <class T>
Status grow(CudaArray<T>& array, size_t count) {
  if (array.size() >= count) return {};
  array = CudaArray<T>();
  VKV_TRY_ASSIGN(larger, CudaArray<T>::make(count));
  array = std::move(larger);
  return {};
}

// Units of a task at most, so that the last of the thread blocks that run at once end together: of
// the ways to cut the longest item, the one that is done first if all of `resident` take turns.
int task_units_of(std::span<const AttendItem> items, int resident, int rows) {
  constexpr int kTaskOverhead = 2;  // units that could be read while a task begins and ends
  int longest = 1;
  int64_t groups_all = 0;
  const auto groups_of = [&](const AttendItem& item) {
    const int row_count = item.q_len * item.shape.group();
    return int64_t{(row_count + rows - 1) / rows} * item.shape.kv_heads;
  };
  for (const AttendItem& item : items) {
    longest = std::max(longest, units_of(item));
    groups_all += groups_of(item);
  }
  const int64_t fewest = (longest + kTaskUnitsMax - 1) / kTaskUnitsMax;
  int best = kTaskUnitsMax;
  int64_t least = INT64_MAX;
  const auto consider = [&](int64_t parts) {
    const auto units = static_cast<int>((longest + parts - 1) / std::max<int64_t>(parts, 1));
    if (parts < 1 || units > kTaskUnitsMax) return;
    int64_t tasks = 0;
    for (const AttendItem& item : items)
      tasks += groups_of(item) * ((units_of(item) + units - 1) / units);
    if (parts > fewest && tasks > 2 * resident) return;  // more partials than there is room for
    const int64_t turns = (tasks + resident - 1) / resident;
    const int64_t duration = turns * (units + kTaskOverhead);
    if (duration < least) least = duration, best = units;
  };
  for (int64_t turns = 1; turns <= 4; ++turns)
    for (const int64_t parts = turns * resident / std::max<int64_t>(groups_all, 1);
         const int64_t one : {parts, parts + 1})
      consider(one);
  for (int64_t parts = fewest; parts < fewest + 4; ++parts) consider(parts);
  return best;
}

}  // namespace

Result<int> kernel_channels(int head_dim) {
  for (const int channels : kAttendChannels)
    if (padded_channels(head_dim) == channels) return channels;
  return Status(Code::kUnsupported,
                "head_dim is " + std::to_string(head_dim) +
                    "; there are GPU kernels for 8 to 128 and 232 to 256 (in steps of 8)");
}

int units_of(const AttendItem& item) {
  return static_cast<int>(item.blocks.size()) +
         (item.open.token_count + kOpenUnitTokens - 1) / kOpenUnitTokens;
}

bool any_rotated(std::span<const BlockView> blocks) {
  return std::ranges::any_of(blocks, [](const BlockView& block) { return block.k_rotated; });
}

int slot_rows(std::span<const AttendItem> items) {
  const bool few = std::all_of(items.begin(), items.end(), [](const AttendItem& item) {
    return item.q_len * item.shape.group() <= kRowsPerTile;
  });
  return few ? kRowsPerTile : kSlotRowsMost;
}

Result<AttendPlan> plan_attend(std::span<const AttendItem> items, int resident, int rows) {
  AttendPlan plan;
  plan.rows = rows;
  if (items.empty()) return plan;
  const KvShape& shape = items.front().shape;
  VKV_TRY_ASSIGN(channels, kernel_channels(shape.head_dim));
  plan.channels = channels;

  // 1. How long a task is.
  for (const AttendItem& item : items)
    if (item.shape.head_dim != shape.head_dim || item.shape.kv_heads != shape.kv_heads ||
        item.shape.q_heads != shape.q_heads)
      return Status(Code::kInvalidArgument, "items of different shapes in one attend");
  const int task_units = task_units_of(items, std::max(resident, 1), rows);

  // 2. Cut.
  for (const AttendItem& item : items) {
    const int source = static_cast<int>(plan.sources.size());
    plan.sources.push_back(source_of(item));
    plan.first_block.push_back(plan.blocks.size());
    if (has_kept_table(item))
      plan.kept.push_back({plan.sources.size() - 1, item.blocks, item.blocks_id});
    else
      plan.blocks.insert(plan.blocks.end(), item.blocks.begin(), item.blocks.end());
    const int unit_count = units_of(item);
    const int parts = (unit_count + task_units - 1) / task_units;
    for (int kv_head = 0; kv_head < shape.kv_heads; ++kv_head)
      for (int row = 0; row < item.q_len * shape.group(); row += rows) {
        const int slot_begin = plan.slot_count;
        for (int part = 0; part < parts; ++part)
          plan.tasks.push_back(
              {.source = source,
               .kv_head = kv_head,
               .row_begin = row,
               .unit_begin = static_cast<int>(int64_t{unit_count} * part / parts),
               .unit_end = static_cast<int>(int64_t{unit_count} * (part + 1) / parts),
               .slot = plan.slot_count++});
        plan.merges.push_back({.source = source,
                               .kv_head = kv_head,
                               .row_begin = row,
                               .slot_begin = slot_begin,
                               .slot_end = plan.slot_count});
      }
  }
  return plan;
}

Result<GpuAttend> GpuAttend::make(const GpuAttendOptions& options) {
  VKV_TRY_ASSIGN(tables, AttendTables::make(options.table_bytes));
  GpuAttend attend(std::move(tables));
  int device = 0;
  VKV_TRY(cuda_status(cudaGetDevice(&device), "cudaGetDevice"));
  VKV_TRY(cuda_status(
      cudaDeviceGetAttribute(&attend.multiprocessors_, cudaDevAttrMultiProcessorCount, device),
      "cudaDeviceGetAttribute"));
  attend.grows_ = options.slots_max == 0;
  if (options.head_dim == 0) return Result<GpuAttend>(std::move(attend));

  VKV_TRY_ASSIGN(channels, kernel_channels(options.head_dim));
  for (const int rows : {kRowsPerTile, kSlotRowsMost})
    VKV_TRY(attend.resident(channels, rows).status());
  if (attend.grows_) return Result<GpuAttend>(std::move(attend));
  const size_t rows = static_cast<size_t>(options.slots_max) * kSlotRowsMost;
  VKV_TRY(grow(attend.partials_, rows * static_cast<size_t>(channels)));
  VKV_TRY(grow(attend.max_and_sum_, rows));
  return Result<GpuAttend>(std::move(attend));
}

Result<int> GpuAttend::resident(int channels, int rows) {
  const auto found = resident_.find({channels, rows});
  if (found != resident_.end()) return found->second;
  VKV_TRY_ASSIGN(of_one, resident_tasks(channels, rows));
  return resident_[{channels, rows}] = of_one * multiprocessors_;
}

Status GpuAttend::attend(std::span<const AttendItem> items, cudaStream_t stream) {
  VKV_TRY(prepare(items, stream));
  return run(stream);
}

Status GpuAttend::reserve_slots(int slot_count, int rows, int channels) {
  const size_t slot_rows_all = static_cast<size_t>(slot_count) * static_cast<size_t>(rows);
  const size_t values = slot_rows_all * static_cast<size_t>(channels);
  if (grows_) {
    // Work queued before may still use what is replaced, but freeing waits for it.
    VKV_TRY(grow(partials_, values + values / 2));
    return grow(max_and_sum_, slot_rows_all + slot_rows_all / 2);
  }
  if (values <= partials_.size() && slot_rows_all <= max_and_sum_.size()) return {};
  return {Code::kOutOfMemory, "hbm tier: an attend of " + std::to_string(slot_count) +
                                  " partial results does not fit the work memory"};
}

Status GpuAttend::prepare(std::span<const AttendItem> items, cudaStream_t stream) {
  launch_ = {};
  if (items.empty()) return {};
  const int rows = slot_rows(items);
  VKV_TRY_ASSIGN(channels, kernel_channels(items.front().shape.head_dim));
  VKV_TRY_ASSIGN(resident_count, resident(channels, rows));
  VKV_TRY_ASSIGN(plan, plan_attend(items, resident_count, rows));
  if (plan.merges.empty()) return {};
  VKV_TRY(reserve_slots(plan.slot_count, rows, channels));
  VKV_TRY_ASSIGN(launch, tables_.upload(plan, stream));
  launch_ = launch;
  launch_.slots = {.out = partials_.data(), .max_and_sum = max_and_sum_.data()};
  channels_ = channels;
  return {};
}

Status GpuAttend::run(cudaStream_t stream) {
  if (launch_.merge_count == 0) return {};
  return launch_attend(channels_, launch_, stream);
}

}  // namespace vkv
