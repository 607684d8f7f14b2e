// gpu_attend.cpp: plans and their tables on the device.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_attend.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace vkv {
namespace {

constexpr int kRowsMost = 2 * kRowsPerTile;
constexpr size_t kTableAlignment = 64;

int units_of(const AttendItem& item, int channels) {
  const int tokens = unit_tokens(channels);
  return static_cast<int>(item.blocks.size()) + (item.open.token_count + tokens - 1) / tokens;
}

Result<int> kernel_channels(int head_dim) {
  for (const int channels : kAttendChannels)
    if (padded_channels(head_dim) == channels) return channels;
  return Status(Code::kUnsupported,
                "head_dim is " + std::to_string(head_dim) +
                    "; there are GPU kernels for 8 to 128 and 232 to 256 (in steps of 8)");
}

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
  source.any_rotated = std::any_of(item.blocks.begin(), item.blocks.end(),
                                   [](const BlockView& block) { return block.k_rotated; });
  return source;
}

// Appends an array and returns where it begins.
template <class T>
size_t append(std::vector<std::byte>& bytes, const std::vector<T>& values) {
  const size_t at = round_up_bytes(bytes.size(), kTableAlignment);
  bytes.resize(at + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes.data() + at, values.data(), values.size() * sizeof(T));
  return at;
}

template <class T>
Status grow(CudaArray<T>& array, size_t count) {
  if (array.size() >= count) return {};
  array = CudaArray<T>();
  VKV_TRY_ASSIGN(larger, CudaArray<T>::make(count + count / 2));
  array = std::move(larger);
  return {};
}

// Units of a task at most, so that the last of the thread blocks that run at once end together: of
// the ways to cut the longest item, the one that is done first if all of `resident` take turns.
int task_units_of(std::span<const AttendItem> items, int channels, int resident, int rows) {
  constexpr int kTaskOverhead = 2;  // units that could be read while a task begins and ends
  int longest = 1;
  int64_t groups_all = 0;
  const auto groups_of = [&](const AttendItem& item) {
    const int row_count = item.q_len * item.shape.group();
    return int64_t{(row_count + rows - 1) / rows} * item.shape.kv_heads;
  };
  for (const AttendItem& item : items) {
    longest = std::max(longest, units_of(item, channels));
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
      tasks += groups_of(item) * ((units_of(item, channels) + units - 1) / units);
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

int slot_rows(std::span<const AttendItem> items) {
  const bool few = std::all_of(items.begin(), items.end(), [](const AttendItem& item) {
    return item.q_len * item.shape.group() <= kRowsPerTile;
  });
  return few ? kRowsPerTile : kRowsMost;
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
  const int task_units = task_units_of(items, channels, std::max(resident, 1), rows);

  // 2. Cut.
  for (const AttendItem& item : items) {
    const int source = static_cast<int>(plan.sources.size());
    plan.sources.push_back(source_of(item));
    plan.first_block.push_back(plan.blocks.size());
    plan.blocks.insert(plan.blocks.end(), item.blocks.begin(), item.blocks.end());
    const int unit_count = units_of(item, channels);
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

Result<GpuAttend> GpuAttend::make() {
  GpuAttend attend;
  int device = 0;
  VKV_TRY(cuda_status(cudaGetDevice(&device), "cudaGetDevice"));
  VKV_TRY(cuda_status(
      cudaDeviceGetAttribute(&attend.multiprocessors_, cudaDevAttrMultiProcessorCount, device),
      "cudaDeviceGetAttribute"));
  int major = 0;
  VKV_TRY(cuda_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                      "cudaDeviceGetAttribute"));
  attend.overlap_ = major >= 9;
  return Result<GpuAttend>(std::move(attend));
}

Status GpuAttend::attend(std::span<const AttendItem> items, cudaStream_t stream) {
  VKV_TRY(prepare(items, stream));
  return run(stream);
}

Status GpuAttend::prepare(std::span<const AttendItem> items, cudaStream_t stream) {
  launch_ = {};
  if (items.empty()) return {};
  const int rows = slot_rows(items);
  VKV_TRY_ASSIGN(channels, kernel_channels(items.front().shape.head_dim));
  VKV_TRY_ASSIGN(resident, resident_tasks(channels, rows));
  VKV_TRY_ASSIGN(plan, plan_attend(items, resident * multiprocessors_, rows));
  if (plan.merges.empty()) return {};

  // 1. Room. Work queued before may still use what is replaced, but freeing waits for it.
  const size_t slot_rows_all = static_cast<size_t>(plan.slot_count) * static_cast<size_t>(rows);
  VKV_TRY(grow(partials_, slot_rows_all * static_cast<size_t>(channels)));
  VKV_TRY(grow(max_and_sum_, slot_rows_all));
  const size_t table_bytes = plan.sources.size() * sizeof(AttendSource) +
                             plan.tasks.size() * sizeof(AttendTask) +
                             plan.merges.size() * sizeof(MergeTask) +
                             plan.blocks.size() * sizeof(BlockView) + 4 * kTableAlignment;
  VKV_TRY(grow(tables_, table_bytes));

  // 2. Tables. From pageable memory: the copy is staged before the call returns.
  staged_.clear();
  const size_t blocks_at = append(staged_, plan.blocks);
  const auto* blocks = reinterpret_cast<const BlockView*>(tables_.data() + blocks_at);
  for (size_t i = 0; i < plan.sources.size(); ++i)
    plan.sources[i].blocks = blocks + plan.first_block[i];
  const size_t sources_at = append(staged_, plan.sources);
  const size_t tasks_at = append(staged_, plan.tasks);
  const size_t merges_at = append(staged_, plan.merges);
  VKV_TRY(copy_async(tables_.data(), staged_.data(), staged_.size(), stream));

  launch_ = {.sources = reinterpret_cast<const AttendSource*>(tables_.data() + sources_at),
             .tasks = reinterpret_cast<const AttendTask*>(tables_.data() + tasks_at),
             .task_count = static_cast<int>(plan.tasks.size()),
             .merges = reinterpret_cast<const MergeTask*>(tables_.data() + merges_at),
             .merge_count = static_cast<int>(plan.merges.size()),
             .slots = {.out = partials_.data(), .max_and_sum = max_and_sum_.data()},
             .rows = rows,
             .overlap = overlap_};
  channels_ = channels;
  return {};
}

Status GpuAttend::run(cudaStream_t stream) {
  if (launch_.merge_count == 0) return {};
  return launch_attend(channels_, launch_, stream);
}

}  // namespace vkv
