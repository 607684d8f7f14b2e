// attend_tables.cpp: places of layers, and what of them has to be written.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_tables.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/rows.h"

namespace vkv {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kRingBytes = size_t{4} << 20;

template <class T>
void put(std::vector<std::byte>& bytes, size_t at, const std::vector<T>& values) {
  if (!values.empty()) std::memcpy(bytes.data() + at, values.data(), values.size() * sizeof(T));
}

// The bytes between members too, or equal tables would differ.
void put_blocks(std::vector<std::byte>& bytes, std::span<const BlockView> blocks) {
  constexpr size_t kGap = offsetof(BlockView, v_per_token) + sizeof(BlockView::v_per_token);
  if (!blocks.empty()) std::memcpy(bytes.data(), blocks.data(), blocks.size_bytes());
  for (size_t i = 0; i < blocks.size(); ++i)
    std::memset(bytes.data() + i * sizeof(BlockView) + kGap, 0,
                offsetof(BlockView, token_count) - kGap);
}

// How many bytes are the same from the beginning on. A table of many sequences has half a megabyte,
// which memcmp() goes through ten times as fast as a loop over bytes.
size_t same_bytes(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  constexpr size_t kChunk = 1024;
  const size_t common = std::min(a.size(), b.size());
  size_t same = 0;
  while (same < common) {
    const size_t chunk = std::min(kChunk, common - same);
    if (std::memcmp(a.data() + same, b.data() + same, chunk) != 0) break;
    same += chunk;
  }
  while (same < common && a[same] == b[same]) ++same;
  return same;
}

// What tells the layers of all sequences apart.
const void* layer_of(const AttendPlan& plan) {
  const AttendSource& first = plan.sources.front();
  if (first.open_k != nullptr) return first.open_k;
  return plan.blocks.empty() ? nullptr : plan.blocks.front().payload;
}

}  // namespace

Result<AttendTables> AttendTables::make(size_t byte_count) {
  AttendTables tables;
  tables.grows_ = byte_count == 0;
  VKV_TRY_ASSIGN(memory, CudaArray<std::byte>::make(byte_count));
  tables.memory_ = std::move(memory);
  VKV_TRY_ASSIGN(ring, PinnedRing::make(kRingBytes));
  tables.ring_ = std::move(ring);
  return Result<AttendTables>(std::move(tables));
}

AttendTables::Layout AttendTables::layout_of(const AttendPlan& plan) {
  Layout layout;
  const auto behind = [](size_t begin, size_t byte_count) {
    return round_up_bytes(begin + byte_count, kAlignment);
  };
  layout.tasks = behind(0, plan.blocks.size() * sizeof(BlockView));
  layout.merges = behind(layout.tasks, plan.tasks.size() * sizeof(AttendTask));
  layout.sources = behind(layout.merges, plan.merges.size() * sizeof(MergeTask));
  layout.end = behind(layout.sources, plan.sources.size() * sizeof(AttendSource));
  return layout;
}

Result<AttendTables::Place*> AttendTables::place_for(Places& places, const void* layer,
                                                     size_t byte_count) {
  const auto found = places.find(layer);
  if (found != places.end() && byte_count <= found->second.byte_count) return &found->second;

  // Some room to grow into; where all is taken, begin anew: what reads it was queued before.
  const size_t roomy = round_up_bytes(byte_count + byte_count / 4, kAlignment);
  if (used_bytes_ + roomy > memory_.size()) {
    places_.clear();
    kept_.clear();
    used_bytes_ = 0;
    ++clear_count_;
  }
  if (grows_ && roomy > memory_.size()) {
    memory_ = CudaArray<std::byte>();
    VKV_TRY_ASSIGN(memory, CudaArray<std::byte>::make(2 * roomy));
    memory_ = std::move(memory);
  }
  const size_t taken = std::min(roomy, memory_.size() - used_bytes_);
  if (byte_count > taken)
    return Status(Code::kOutOfMemory, "hbm tier: the tables of an attend need " +
                                          std::to_string(byte_count) + " bytes; there are " +
                                          std::to_string(memory_.size()));
  Place& place = places[layer];
  place = {.begin = std::exchange(used_bytes_, used_bytes_ + taken), .byte_count = taken};
  return &place;
}

Status AttendTables::write(const Place& place, size_t begin, size_t end, cudaStream_t stream) {
  constexpr size_t kLaunchesMax = 2;  // as long as one copy takes
  std::byte* const target = memory_.data() + place.begin;
  written_bytes_ += end - begin;
  if (end - begin > kLaunchesMax * kWrittenBytesMax)
    return ring_.copy(target + begin, next_.data() + begin, end - begin, stream);
  for (; begin < end; begin += kWrittenBytesMax)
    VKV_TRY(launch_write(target + begin, next_.data() + begin,
                         std::min(kWrittenBytesMax, end - begin), stream));
  return {};
}

Status AttendTables::write_changes(Place& place, cudaStream_t stream) {
  const size_t same = same_bytes(next_, place.written);
  std::vector<std::byte> written = std::exchange(place.written, {});  // nobody knows if this fails
  place.blocks_id = 0;
  if (same < next_.size())
    VKV_TRY(write(place, same / kAlignment * kAlignment, next_.size(), stream));
  place.written = std::exchange(next_, std::move(written));
  return {};
}

Status AttendTables::upload_kept(AttendPlan& plan, cudaStream_t stream) {
  for (const KeptTable& table : plan.kept) {
    AttendSource& source = plan.sources[table.source];
    const size_t byte_count = round_up_bytes(table.blocks.size_bytes(), kAlignment);
    VKV_TRY_ASSIGN(place, place_for(kept_, source.open_k, byte_count));
    if (place->blocks_id != table.id) {
      next_.assign(byte_count, std::byte{0});
      put_blocks(next_, table.blocks);
      VKV_TRY(write_changes(*place, stream));
      place->blocks_id = table.id;
      place->any_rotated = any_rotated(table.blocks);
    }
    source.blocks = reinterpret_cast<const BlockView*>(memory_.data() + place->begin);
    source.any_rotated = place->any_rotated;
  }
  return {};
}

Result<AttendLaunch> AttendTables::upload(AttendPlan& plan, cudaStream_t stream) {
  const Layout layout = layout_of(plan);
  const auto place_all = [&]() -> Result<Place*> {
    VKV_TRY(upload_kept(plan, stream));
    return place_for(places_, layer_of(plan), layout.end);
  };
  // Where there was no room for all beside what was there, some of these were given up too: again.
  const uint64_t clear_count = clear_count_;
  VKV_TRY_ASSIGN(place, place_all());
  if (clear_count_ != clear_count) {
    const uint64_t cleared_count = clear_count_;
    VKV_TRY_ASSIGN(second, place_all());
    place = second;
    if (clear_count_ != cleared_count)
      return Status(Code::kOutOfMemory,
                    "hbm tier: the tables of an attend of " + std::to_string(plan.sources.size()) +
                        " sequences need more than the " + std::to_string(memory_.size()) +
                        " bytes there are: attend for fewer at once");
  }

  const std::byte* const base = memory_.data() + place->begin;
  for (size_t i = 0; i < plan.sources.size(); ++i)
    if (plan.sources[i].blocks == nullptr)
      plan.sources[i].blocks = reinterpret_cast<const BlockView*>(base) + plan.first_block[i];
  next_.assign(layout.end, std::byte{0});
  put_blocks(next_, plan.blocks);
  put(next_, layout.tasks, plan.tasks);
  put(next_, layout.merges, plan.merges);
  put(next_, layout.sources, plan.sources);
  VKV_TRY(write_changes(*place, stream));  // parts that moved within the place differ too

  return AttendLaunch{.sources = reinterpret_cast<const AttendSource*>(base + layout.sources),
                      .tasks = reinterpret_cast<const AttendTask*>(base + layout.tasks),
                      .task_count = static_cast<int>(plan.tasks.size()),
                      .merges = reinterpret_cast<const MergeTask*>(base + layout.merges),
                      .merge_count = static_cast<int>(plan.merges.size()),
                      .rows = plan.rows};
}

}  // namespace vkv
