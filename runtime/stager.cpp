// stager.cpp: slots, reads and what becomes of them.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/stager.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace vkv {

Result<std::unique_ptr<Stager>> Stager::make(Backend& backend, MemoryPool& pool, BlockStore& store,
                                             const StagerOptions& options) {
  std::vector<Slot> slots(static_cast<size_t>(options.slot_count));
  for (Slot& slot : slots) {
    VKV_TRY_ASSIGN(buffer, pool.allocate(options.slot_bytes, "staging of reads from nvme"));
    slot.buffer = std::move(buffer);
  }
  std::vector<std::span<std::byte>> regions;
  for (const Slot& slot : slots) regions.push_back(slot.buffer.bytes());
  store.register_memory(regions);
  return std::unique_ptr<Stager>(new Stager(backend, store, std::move(slots), options.layer_count));
}

Stager::~Stager() {
  for (Slot& slot : slots_) clear(slot);
}

Status Stager::prefetch(std::span<const std::shared_ptr<Extent>> upcoming, int layer,
                        bool may_wait) {
  clock_of_layers_.tell(layer, std::chrono::steady_clock::now());
  const auto wanted = upcoming.first(std::min(upcoming.size(), slots_.size()));
  std::set<const Extent*> keep;
  for (const std::shared_ptr<Extent>& extent : wanted) keep.insert(extent.get());
  for (const std::shared_ptr<Extent>& extent : wanted) {
    if (find(*extent) != nullptr) continue;
    Slot* slot = vacate(keep, may_wait);
    if (slot == nullptr) return {};  // every slot is held or wanted
    VKV_TRY(
        start_read(*slot, extent, IoPriority::kAhead, clock_of_layers_.turn_of(extent->layer())));
  }
  return {};
}

Result<const std::byte*> Stager::acquire(const std::shared_ptr<Extent>& extent) {
  ++stats_.needed_count;
  Slot* slot = find(*extent);
  if (slot == nullptr) {
    slot = vacate({}, /*may_wait=*/true);
    VKV_CHECK(slot != nullptr);
    VKV_TRY(start_read(*slot, extent, IoPriority::kNow, kNoDeadline));
  } else {
    ++stats_.hit_count;
    if (slot->ticket == IoTicket::kNone || store_.ready(slot->ticket)) ++stats_.ready_count;
  }

  const auto start = std::chrono::steady_clock::now();
  finish_read(*slot);
  stats_.wait_seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!slot->failure.ok()) {
    Status failure = slot->failure;
    clear(*slot);  // the next attempt reads again
    return failure;
  }
  slot->held = true;
  slot->last_use = ++clock_;
  return static_cast<const std::byte*>(slot->buffer.data());
}

void Stager::release(const Extent& extent, uint64_t mark) {
  Slot* slot = find(extent);
  VKV_CHECK(slot != nullptr && slot->held);
  slot->held = false;
  slot->mark = mark;
}

void Stager::drop_orphans() {
  for (Slot& slot : slots_)
    if (slot.extent.use_count() == 1 && !slot.held) clear(slot);
}

Stager::Slot* Stager::find(const Extent& extent) {
  const auto found = slot_of_.find(&extent);
  return found == slot_of_.end() ? nullptr : &slots_[found->second];
}

Stager::Slot* Stager::vacate(const std::set<const Extent*>& keep, bool may_wait) {
  Slot *free = nullptr, *oldest = nullptr;
  for (Slot& slot : slots_) {
    if (slot.held || (!may_wait && !backend_.is_reached(slot.mark))) continue;
    if (slot.extent != nullptr && keep.contains(slot.extent.get())) continue;
    Slot*& best = slot.extent == nullptr ? free : oldest;
    if (best == nullptr || slot.last_use < best->last_use) best = &slot;
  }
  if (free != nullptr) return free;
  if (oldest != nullptr) clear(*oldest);
  return oldest;
}

Status Stager::start_read(Slot& slot, std::shared_ptr<Extent> extent, IoPriority priority,
                          IoDeadline deadline) {
  VKV_TRY(backend_.reach(slot.mark));
  const auto target = slot.buffer.bytes().first(extent->byte_count());
  VKV_TRY_ASSIGN(ticket, store_.submit_read(extent->stored(), target, priority, deadline));
  slot.extent = std::move(extent);
  slot_of_[slot.extent.get()] = static_cast<size_t>(&slot - slots_.data());
  slot.ticket = ticket;
  slot.failure = Status();
  slot.last_use = ++clock_;
  return {};
}

void Stager::finish_read(Slot& slot) {
  if (slot.ticket == IoTicket::kNone) return;
  slot.failure = store_.wait(std::exchange(slot.ticket, IoTicket::kNone));
}

void Stager::clear(Slot& slot) {
  if (slot.ticket != IoTicket::kNone) store_.cancel(std::exchange(slot.ticket, IoTicket::kNone));
  slot_of_.erase(slot.extent.get());
  slot.extent.reset();
  slot.failure = Status();
}

}  // namespace vkv
