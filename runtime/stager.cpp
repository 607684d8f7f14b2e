// stager.cpp: slots, reads and what becomes of them.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/stager.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace vkv {

Result<std::unique_ptr<Stager>> Stager::make(MemoryPool& pool, BlockStore& store,
                                             const StagerOptions& options) {
  std::vector<Slot> slots(static_cast<size_t>(options.slot_count));
  for (Slot& slot : slots) {
    VKV_TRY_ASSIGN(buffer, pool.allocate(options.slot_bytes, "staging of reads from nvme"));
    slot.buffer = std::move(buffer);
  }
  std::vector<std::span<std::byte>> regions;
  for (const Slot& slot : slots) regions.push_back(slot.buffer.bytes());
  store.register_memory(regions);
  return std::unique_ptr<Stager>(new Stager(store, std::move(slots), options.layer_count));
}

Stager::~Stager() {
  for (Slot& slot : slots_) clear(slot);
}

Status Stager::prefetch(std::span<const std::shared_ptr<Extent>> upcoming, int layer) {
  clock_of_layers_.tell(layer, std::chrono::steady_clock::now());
  const auto wanted = upcoming.first(std::min(upcoming.size(), slots_.size()));
  for (const std::shared_ptr<Extent>& extent : wanted) {
    if (find(*extent) != nullptr) continue;
    Slot* slot = vacate(wanted);
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
    slot = vacate({});
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

void Stager::release(const Extent& extent) {
  Slot* slot = find(extent);
  VKV_CHECK(slot != nullptr && slot->held);
  slot->held = false;
}

void Stager::drop_orphans() {
  for (Slot& slot : slots_)
    if (slot.extent.use_count() == 1 && !slot.held) clear(slot);
}

Stager::Slot* Stager::find(const Extent& extent) {
  const auto it = std::find_if(slots_.begin(), slots_.end(),
                               [&](const Slot& slot) { return slot.extent.get() == &extent; });
  return it == slots_.end() ? nullptr : &*it;
}

Stager::Slot* Stager::vacate(std::span<const std::shared_ptr<Extent>> keep) {
  Slot* oldest = nullptr;
  for (Slot& slot : slots_) {
    if (slot.held) continue;
    if (slot.extent == nullptr) return &slot;
    if (std::find(keep.begin(), keep.end(), slot.extent) != keep.end()) continue;
    if (oldest == nullptr || slot.last_use < oldest->last_use) oldest = &slot;
  }
  if (oldest != nullptr) clear(*oldest);
  return oldest;
}

Status Stager::start_read(Slot& slot, std::shared_ptr<Extent> extent, IoPriority priority,
                          IoDeadline deadline) {
  const auto target = slot.buffer.bytes().first(extent->byte_count());
  VKV_TRY_ASSIGN(ticket, store_.submit_read(extent->stored(), target, priority, deadline));
  slot.extent = std::move(extent);
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
  slot.extent.reset();
  slot.failure = Status();
}

}  // namespace vkv
