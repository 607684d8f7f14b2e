// placement.cpp: demotion from HBM to DRAM, and from DRAM to NVMe.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/placement.h"

#include <algorithm>
#include <string>
#include <utility>

#include "transfer/page_toucher.h"

namespace vkv {
namespace {

constexpr size_t kReadsInFlight = 16;    // saturates a disk at 1 MiB each
constexpr int kTouchThreads = 3;         // a disk of 7 GB/s or so
constexpr uint64_t kSpareFraction = 16;  // of memory, left free for what comes next

}  // namespace

bool Placement::LeastValueFirst::operator()(const Extent* a, const Extent* b) const {
  if (a->kind() != b->kind()) return a->kind() < b->kind();
  if (a->layer() != b->layer()) return a->layer() > b->layer();
  return a->serial() > b->serial();
}

Placement::Placement(const PlacementTiers& tiers)
    : backend_(tiers.backend), host_pool_(tiers.host_pool), store_(tiers.store) {
  levels_.push_back({.pool = &tiers.pool, .block_bytes_max = tiers.block_bytes_max});
  if (tiers.pinned != nullptr)
    levels_.push_back({.pool = tiers.pinned, .block_bytes_max = tiers.pinned_block_bytes_max});
}

Result<MemoryBuffer> Placement::allocate(uint64_t byte_count, std::string_view purpose) {
  // What is free now, sealing may have used until a moment ago.
  VKV_TRY(backend_.join_all());
  return allocate_in(levels_.front(), byte_count, purpose);
}

Result<MemoryBuffer> Placement::allocate_for_io(uint64_t byte_count, std::string_view purpose) {
  return allocate_in(levels_.back(), byte_count, purpose);
}

Result<HostRoom> Placement::allocate_for_host(uint64_t byte_count, std::string_view purpose) {
  HostRoom room;
  if (levels_.size() == 1) {  // where making room helps
    VKV_TRY_ASSIGN(buffer, allocate(byte_count, purpose));
    room.buffer = std::move(buffer);
  } else {
    VKV_TRY_ASSIGN(charge, MemoryCharge::make(host_pool_, byte_count, purpose));
    room.charge = std::move(charge);
  }
  return Result<HostRoom>(std::move(room));
}

Result<MemoryBuffer> Placement::allocate_in(Level& level, uint64_t byte_count,
                                            std::string_view purpose) {
  Result<MemoryBuffer> buffer = level.pool->allocate(byte_count, purpose);
  while (!buffer.ok() && buffer.status().code() == Code::kOutOfMemory && can_demote(level)) {
    VKV_TRY(demote(level, byte_count));
    buffer = level.pool->allocate(byte_count, purpose);
  }
  return buffer;
}

Result<std::shared_ptr<ChargedBytes>> Placement::allocate_shared(size_t byte_count,
                                                                 std::string_view purpose) {
  if (levels_.front().pool->tier() == Tier::kDram)
    return ChargedBytes::make(host_pool_, byte_count, purpose);
  VKV_TRY_ASSIGN(buffer, allocate(std::max<size_t>(byte_count, 1), purpose));
  return ChargedBytes::of(std::move(buffer), byte_count);
}

Result<std::shared_ptr<Extent>> Placement::admit(int layer, ExtentContent content,
                                                 MemoryBuffer bytes) {
  auto extent =
      std::make_shared<Extent>(layer, next_serial_++, std::move(content), std::move(bytes));
  Status charged = host_pool_.charge(extent->table_bytes(), "block table");
  if (!charged.ok() && levels_.size() == 1 && can_demote(levels_.front())) {
    VKV_TRY(demote(levels_.front(), extent->table_bytes()));
    charged = host_pool_.charge(extent->table_bytes(), "block table");
  }
  VKV_TRY(charged);
  extent->placement_ = this;
  add_resident(*extent);
  VKV_TRY(keep_share(levels_.front()));
  return extent;
}

Placement::Level* Placement::level_of(const Extent& extent) {
  for (Level& level : levels_)
    if (level.pool->tier() == extent.tier()) return &level;
  return nullptr;
}

Status Placement::keep_share(Level& level) {
  while (can_demote(level) && level.bytes > level.block_bytes_max)
    VKV_TRY(demote(level, level.bytes - level.block_bytes_max));
  return {};
}

void Placement::add_resident(Extent& extent) {
  if (Level* const level = level_of(extent)) {
    level->extents.insert(&extent);
    level->bytes += extent.byte_count();
  } else {
    on_disk_.insert(&extent);
  }
  count(extent);
}

Result<std::shared_ptr<Extent>> Placement::adopt(int layer, ExtentContent content,
                                                 const StoreExtent& stored) {
  auto extent = std::make_shared<Extent>(layer, next_serial_++, std::move(content), stored);
  VKV_TRY(host_pool_.charge(extent->table_bytes(), "block table"));
  store_->hold(stored);
  extent->placement_ = this;
  add_resident(*extent);
  return extent;
}

struct Placement::Load {
  Extent* extent = nullptr;
  MemoryBuffer bytes;
  IoTicket ticket = IoTicket::kNone;
};

// Memory for the first of them, as far as there is room; the rest stays where it is.
std::vector<Placement::Load> Placement::make_room(const std::vector<Extent*>& extents) {
  std::vector<Load> loads;
  size_t next = 0;
  for (Level& level : levels_) {
    uint64_t room = level.block_bytes_max - std::min(level.block_bytes_max, level.bytes);
    for (; next < extents.size(); ++next) {
      const uint64_t byte_count = extents[next]->byte_count();
      if (extents[next]->tier() != Tier::kNvme) continue;
      const uint64_t spare = level.pool->bytes_max() - level.pool->bytes_used();
      if (byte_count > room || byte_count + level.pool->bytes_max() / kSpareFraction > spare) break;
      Result<MemoryBuffer> bytes = level.pool->allocate(byte_count, "restored blocks");
      if (!bytes.ok()) break;
      room -= byte_count;
      loads.push_back({extents[next], std::move(bytes.value())});
    }
  }
  return loads;
}

Status Placement::load(std::vector<Extent*> extents) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent* a, const Extent* b) { return LeastValueFirst()(b, a); });
  // Memory that was free may be read until now by work that is queued.
  VKV_TRY(backend_.quiesce());
  // What a disk cannot reach is read into a buffer that it can, and copied from there.
  struct Bounce {
    MemoryBuffer buffer;
    uint64_t copied = 0;  // a mark
  };
  std::vector<Bounce> bounces;
  const bool is_host = levels_.size() == 1;
  uint64_t largest = 0;
  for (const Extent* extent : extents) largest = std::max(largest, extent->byte_count());
  while (!is_host && largest > 0 && bounces.size() < std::min(kReadsInFlight, extents.size())) {
    Result<MemoryBuffer> buffer = levels_.back().pool->allocate(largest, "restored blocks");
    if (!buffer.ok() && bounces.empty()) return buffer.status();
    if (!buffer.ok()) break;
    bounces.push_back({.buffer = std::move(buffer.value())});
  }
  std::vector<Load> loads = make_room(extents);

  // Several reads at a time, into pages that are there already.
  const size_t in_flight_max = is_host ? kReadsInFlight : std::max<size_t>(bounces.size(), 1);
  const auto is_direct = [&](const Load& load) { return load.bytes.tier() == Tier::kDram; };
  const auto target_of = [&](size_t index) {
    Load& load = loads[index];
    const MemoryBuffer& buffer =
        is_direct(load) ? load.bytes : bounces[index % in_flight_max].buffer;
    return buffer.bytes().first(load.extent->byte_count());
  };
  Status status;
  size_t finished = 0;
  const auto finish_one = [&] {
    Load& load = loads[finished++];
    Status arrived = store_->wait(load.ticket);
    if (arrived.ok() && !is_direct(load)) {
      arrived = backend_.copy(load.bytes.data(), target_of(finished - 1).data(),
                              load.extent->byte_count());
      const Result<uint64_t> copied = backend_.mark();
      if (arrived.ok()) arrived = copied.status();
      if (copied.ok()) bounces[(finished - 1) % in_flight_max].copied = copied.value();
    }
    if (status.ok()) status = arrived;
    if (!arrived.ok()) return;
    remove_resident(*load.extent);
    load.extent->bytes_ = std::move(load.bytes);
    add_resident(*load.extent);
  };
  std::vector<std::span<std::byte>> touched;
  for (size_t i = 0; is_host && i < loads.size(); ++i) touched.push_back(target_of(i));
  PageToucher toucher(std::move(touched), is_host ? kTouchThreads : 0);
  size_t submitted = 0;
  for (; submitted < loads.size() && status.ok(); ++submitted) {
    if (submitted - finished == in_flight_max) finish_one();
    if (is_host) toucher.wait(submitted);
    if (!is_direct(loads[submitted]) && status.ok())
      status = backend_.reach(bounces[submitted % in_flight_max].copied);
    if (!status.ok()) break;
    const Result<IoTicket> ticket =
        store_->submit_read(loads[submitted].extent->stored_, target_of(submitted));
    status = ticket.status();
    if (!ticket.ok()) break;
    loads[submitted].ticket = ticket.value();
  }
  while (finished < submitted) finish_one();
  for (const Bounce& bounce : bounces) {
    const Status copied = backend_.reach(bounce.copied);
    if (status.ok()) status = copied;
  }
  return status;
}

Result<IoTicket> Placement::submit_store(Extent& extent, std::span<std::byte> bounce) {
  std::span<const std::byte> bytes = extent.bytes_.bytes();
  if (needs_bounce(extent)) {
    VKV_CHECK(bounce.size() >= bytes.size());
    VKV_TRY(backend_.copy(bounce.data(), bytes.data(), bytes.size()));
    VKV_TRY_ASSIGN(copied, backend_.mark());
    VKV_TRY(backend_.reach(copied));
    bytes = bounce.first(bytes.size());
  }
  // Records fill their extent but for the rounding; if not, all of it is paid for.
  const uint64_t payload = extent.payload_bytes();
  const bool is_full = round_up_bytes(payload, kExtentAlignment) == extent.byte_count();
  VKV_TRY_ASSIGN(room, store_->reserve(is_full ? payload : extent.byte_count()));
  extent.stored_ = room;
  const Result<IoTicket> ticket = store_->submit_write(extent.stored_, bytes);
  if (!ticket.ok()) forget_stored(extent);
  return ticket;
}

void Placement::forget_stored(Extent& extent) {
  store_->release(std::exchange(extent.stored_, {}));
}

void Placement::count(const Extent& extent) {
  const size_t tier = static_cast<size_t>(extent.tier());
  ++extent_count_[tier];
  if (extent.kind() == ExtentKind::kOriginal) original_bytes_[tier] += extent.byte_count();
}

void Placement::discount(const Extent& extent) {
  const size_t tier = static_cast<size_t>(extent.tier());
  --extent_count_[tier];
  if (extent.kind() == ExtentKind::kOriginal) original_bytes_[tier] -= extent.byte_count();
}

void Placement::remove_resident(Extent& extent) {
  ++move_count_;
  if (Level* const level = level_of(extent)) {
    level->extents.erase(&extent);
    level->bytes -= extent.byte_count();
  } else {
    on_disk_.erase(&extent);
  }
  discount(extent);
}

void Placement::moved(Extent& extent, MemoryBuffer bytes) {
  remove_resident(extent);
  extent.bytes_ = std::move(bytes);
  add_resident(extent);
}

void Placement::demoted(Extent& extent, MemoryBuffer bytes) {
  moved(extent, std::move(bytes));
  demoted_bytes_ += extent.byte_count();
}

void Placement::forget(Extent& extent) {
  std::erase_if(rises_, [&](Rise& rise) {
    if (rise.extent != &extent) return false;
    give_up(rise);
    return true;
  });
  remove_resident(extent);
  if (extent.is_stored()) forget_stored(extent);
  host_pool_.discharge(extent.table_bytes());
}

Status Placement::demote(Level& level, uint64_t byte_count) {
  const std::vector<Extent*> victims = least_of(level, byte_count);
  return is_last(level) ? write_out(victims) : copy_out(victims);
}

std::vector<Extent*> Placement::least_of(const Level& level, uint64_t byte_count) {
  std::vector<Extent*> victims;
  uint64_t victim_bytes = 0;
  const auto take = [&](auto&& is_meant) {
    for (Extent* extent : level.extents) {
      if (victim_bytes >= byte_count) break;
      if (!is_meant(*extent)) continue;
      victims.push_back(extent);
      victim_bytes += extent->byte_count();
    }
  };
  // Where writes are short, what is in the store already comes first: it costs none.
  const bool spares_writes = is_last(level) && store_->writes_are_short();
  if (spares_writes) take([](const Extent& extent) { return extent.is_stored(); });
  take([&](const Extent& extent) { return !spares_writes || !extent.is_stored(); });
  return victims;
}

Status Placement::copy_out(const std::vector<Extent*>& extents) {
  Level& pinned = levels_.back();
  bool any_moved = false;
  for (Extent* extent : extents) {
    Result<MemoryBuffer> room = allocate_in(pinned, extent->byte_count(), "blocks out of HBM");
    if (!room.ok()) return any_moved ? Status() : room.status();
    VKV_TRY(backend_.copy(room.value().data(), extent->bytes_.data(), extent->byte_count()));
    demoted(*extent, std::move(room.value()));
    any_moved = true;
  }
  return keep_share(pinned);
}

Status Placement::demote_originals() {
  std::vector<Extent*> originals;  // they come first in the order of value
  do {
    originals.clear();
    for (Extent* extent : levels_.back().extents) {
      if (extent->kind() != ExtentKind::kOriginal) break;
      originals.push_back(extent);
    }
    VKV_TRY(write_out(originals));
  } while (!originals.empty());
  return {};
}

Status Placement::write_out(const std::vector<Extent*>& extents) {
  // 1. Hand all of them to the store, as far as there is room. What is there already costs nothing.
  // Copies out of HBM have to have arrived, and nobody may go on reading what is freed.
  VKV_TRY(backend_.quiesce());
  Status status;
  bool any_moved = false;
  std::vector<std::pair<Extent*, IoTicket>> writes;
  for (Extent* extent : extents) {
    if (extent->is_stored()) {
      demoted(*extent, MemoryBuffer());
      any_moved = true;
      continue;
    }
    const Result<IoTicket> ticket = submit_store(*extent);
    status = ticket.status();
    if (!status.ok()) break;
    writes.emplace_back(extent, ticket.value());
  }

  // 2. Those that arrived leave DRAM; the others stay where they were.
  for (auto [extent, ticket] : writes) {
    const Status written = store_->wait(ticket);
    if (!written.ok()) {
      forget_stored(*extent);
      if (status.ok()) status = written;
      continue;
    }
    demoted(*extent, MemoryBuffer());
    any_moved = true;
  }
  return any_moved ? Status() : status;  // some room was made: the caller tries again
}

}  // namespace vkv
