// placement_rise.cpp: extents that move up where room was made.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <iterator>
#include <utility>

#include "runtime/placement.h"

namespace vkv {
namespace {

constexpr size_t kRisesMax = 4;  // under way: 4 MiB a layer leave a link and a disk to others
// Of a tier's memory, left free: twice what loading leaves, so that what rises does not come down
// with the next few tokens.
constexpr uint64_t kRiseSpareFraction = 8;

}  // namespace

Status Placement::rise() {
  VKV_TRY(end_rises());
  for (size_t level = 0; level < levels_.size(); ++level) VKV_TRY(start_rises(level));
  return {};
}

Status Placement::end_rises() {
  bool any_read = false;
  for (size_t i = 0; i < rises_.size();) {
    Rise& rise = rises_[i];
    if (!is_over(rise)) {
      ++i;
      continue;
    }
    Extent& extent = *rise.extent;
    if (!rise.from_disk) VKV_TRY(backend_.join(rise.stretch));
    if (rise.ticket != IoTicket::kNone) {
      any_read = true;
      extent.may_rise_ = store_->wait(rise.ticket).ok();
    }
    // In the meantime it may have been loaded.
    Level* const now = level_of(extent);
    if (extent.may_rise_ && (now == nullptr || now > &levels_[rise.level])) {
      moved(extent, std::move(rise.bytes));
      risen_bytes_ += extent.byte_count();
    }
    rises_.erase(rises_.begin() + static_cast<ptrdiff_t>(i));
  }
  // What was read ahead of others that lay there is of no use to these.
  return any_read ? backend_.drop_ahead() : Status();
}

bool Placement::is_over(Rise& rise) {
  if (!rise.from_disk || !rise.extent->may_rise_) return true;
  if (rise.ticket == IoTicket::kNone) start_read(rise);
  return !rise.extent->may_rise_ || (rise.ticket != IoTicket::kNone && store_->ready(rise.ticket));
}

Extent* Placement::next_to_rise(size_t level_index) {
  const Level& level = levels_[level_index];
  const auto& below = is_last(level) ? on_disk_ : levels_[level_index + 1].extents;
  const auto is_on_its_way = [&](const Extent* extent) {
    return std::ranges::any_of(rises_, [&](const Rise& rise) { return rise.extent == extent; });
  };
  const auto found = std::find_if(below.rbegin(), below.rend(), [&](const Extent* extent) {
    return extent->may_rise_ && !is_on_its_way(extent);
  });
  if (found == below.rend() || (*found)->kind() == ExtentKind::kOriginal) return nullptr;

  uint64_t taken = level.bytes;
  for (const Rise& rise : rises_)
    if (rise.level == level_index) taken += rise.bytes.bytes().size();
  const uint64_t byte_count = (*found)->byte_count();
  const uint64_t spare = level.pool->bytes_max() - level.pool->bytes_used();
  const bool has_room = taken + byte_count <= level.block_bytes_max &&
                        byte_count + level.pool->bytes_max() / kRiseSpareFraction <= spare;
  return has_room ? *found : nullptr;
}

Status Placement::start_rises(size_t level_index) {
  Level& level = levels_[level_index];
  while (rises_.size() < kRisesMax) {
    Extent* const extent = next_to_rise(level_index);
    if (extent == nullptr) return {};
    Result<MemoryBuffer> bytes = level.pool->allocate(extent->byte_count(), "blocks that move up");
    if (!bytes.ok()) return {};  // no hole is large enough
    Rise rise{.extent = extent, .level = level_index, .bytes = std::move(bytes.value())};
    if (extent->tier() == Tier::kNvme) {
      // Work that is queued may still read what lay there.
      VKV_TRY_ASSIGN(mark, backend_.mark());
      rise.from_disk = true;
      rise.mark = mark;
      start_read(rise);
    } else {
      backend_.begin_aside();
      const Status copied =
          backend_.copy(rise.bytes.data(), extent->memory(), extent->byte_count());
      VKV_TRY_ASSIGN(stretch, backend_.end_aside());
      VKV_TRY(copied);
      rise.stretch = stretch;
    }
    rises_.push_back(std::move(rise));
  }
  return {};
}

void Placement::start_read(Rise& rise) {
  if (!backend_.is_reached(rise.mark)) return;
  const Result<IoTicket> ticket =
      store_->submit_read(rise.extent->stored_, rise.bytes.bytes(), IoPriority::kWriteBack);
  rise.extent->may_rise_ = ticket.ok();
  if (ticket.ok()) rise.ticket = ticket.value();
}

void Placement::give_up(Rise& rise) {
  if (rise.ticket != IoTicket::kNone) store_->cancel(rise.ticket);
  (void)backend_.join(rise.stretch);  // what is queued from now on may write where it lay
}

}  // namespace vkv
