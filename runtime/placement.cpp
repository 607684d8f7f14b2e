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

Result<MemoryBuffer> Placement::allocate(uint64_t byte_count, std::string_view purpose) {
  // What is free now, sealing may have used until a moment ago.
  VKV_TRY(backend_.join_all());
  Result<MemoryBuffer> buffer = pool_.allocate(byte_count, purpose);
  while (!buffer.ok() && buffer.status().code() == Code::kOutOfMemory && can_demote()) {
    VKV_TRY(demote(byte_count));
    buffer = pool_.allocate(byte_count, purpose);
  }
  return buffer;
}

Result<std::shared_ptr<ChargedBytes>> Placement::allocate_shared(size_t byte_count,
                                                                 std::string_view purpose) {
  if (pool_.tier() == Tier::kDram) return ChargedBytes::make(pool_, byte_count, purpose);
  VKV_TRY_ASSIGN(buffer, allocate(std::max<size_t>(byte_count, 1), purpose));
  return ChargedBytes::of(std::move(buffer), byte_count);
}

Result<std::shared_ptr<Extent>> Placement::admit(int layer, ExtentContent content,
                                                 MemoryBuffer bytes) {
  auto extent =
      std::make_shared<Extent>(layer, next_serial_++, std::move(content), std::move(bytes));
  Status charged = host_pool_.charge(extent->table_bytes(), "block table");
  if (!charged.ok() && store_ != nullptr && !resident_.empty()) {
    VKV_TRY(demote(extent->table_bytes()));
    charged = host_pool_.charge(extent->table_bytes(), "block table");
  }
  VKV_TRY(charged);
  extent->placement_ = this;
  add_resident(*extent);
  while (can_demote() && resident_bytes_ > block_bytes_max_)
    VKV_TRY(demote(resident_bytes_ - block_bytes_max_));
  return extent;
}

void Placement::add_resident(Extent& extent) {
  resident_.insert(&extent);
  resident_bytes_ += extent.byte_count();
  count(extent);
}

Result<std::shared_ptr<Extent>> Placement::adopt(int layer, ExtentContent content,
                                                 const StoreExtent& stored) {
  auto extent = std::make_shared<Extent>(layer, next_serial_++, std::move(content), stored);
  VKV_TRY(host_pool_.charge(extent->table_bytes(), "block table"));
  store_->hold(stored);
  extent->placement_ = this;
  count(*extent);
  return extent;
}

Status Placement::load(std::vector<Extent*> extents) {
  std::sort(extents.begin(), extents.end(),
            [](const Extent* a, const Extent* b) { return LeastValueFirst()(b, a); });
  struct Read {
    Extent* extent;
    MemoryBuffer bytes;
    IoTicket ticket;
  };
  // 1. Memory, as far as there is room; the rest stays where it is.
  std::vector<Read> reads;
  std::vector<std::span<std::byte>> buffers;
  uint64_t room = block_bytes_max_ - std::min(block_bytes_max_, resident_bytes_);
  for (Extent* extent : extents) {
    if (extent->tier() != Tier::kNvme) continue;
    const uint64_t spare = pool_.bytes_max() - pool_.bytes_used();
    if (extent->byte_count() > room) break;
    if (extent->byte_count() + pool_.bytes_max() / kSpareFraction > spare) break;
    Result<MemoryBuffer> bytes = pool_.allocate(extent->byte_count(), "restored blocks");
    if (!bytes.ok()) break;
    room -= extent->byte_count();
    reads.push_back({extent, std::move(bytes.value()), IoTicket::kNone});
    buffers.push_back(reads.back().bytes.bytes());
  }

  // 2. Several reads at a time, into pages that are there already.
  Status status;
  size_t finished = 0;
  const auto finish_one = [&] {
    Read& read = reads[finished++];
    const Status arrived = store_->wait(read.ticket);
    if (status.ok()) status = arrived;
    if (!arrived.ok()) return;
    discount(*read.extent);
    read.extent->bytes_ = std::move(read.bytes);
    add_resident(*read.extent);
  };
  PageToucher toucher(std::move(buffers), kTouchThreads);
  size_t submitted = 0;
  for (; submitted < reads.size() && status.ok(); ++submitted) {
    if (submitted - finished == kReadsInFlight) finish_one();
    toucher.wait(submitted);
    Read& read = reads[submitted];
    const Result<IoTicket> ticket = store_->submit_read(read.extent->stored_, read.bytes.bytes());
    if (status.ok()) status = ticket.status();
    if (!ticket.ok()) break;
    read.ticket = ticket.value();
  }
  while (finished < submitted) finish_one();
  return status;
}

Result<IoTicket> Placement::submit_store(Extent& extent) {
  // Records fill their extent but for the rounding; if not, all of it is paid for.
  const uint64_t payload = extent.payload_bytes();
  const bool is_full = round_up_bytes(payload, kExtentAlignment) == extent.byte_count();
  VKV_TRY_ASSIGN(room, store_->reserve(is_full ? payload : extent.byte_count()));
  extent.stored_ = room;
  const Result<IoTicket> ticket = store_->submit_write(extent.stored_, extent.bytes_.bytes());
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

void Placement::moved(Extent& extent, MemoryBuffer bytes) {
  resident_.erase(&extent);
  resident_bytes_ -= extent.byte_count();
  discount(extent);
  extent.bytes_ = std::move(bytes);
  count(extent);
  demoted_bytes_ += extent.byte_count();
}

void Placement::forget(Extent& extent) {
  discount(extent);
  if (extent.tier() == pool_.tier()) {
    resident_.erase(&extent);
    resident_bytes_ -= extent.byte_count();
  }
  if (extent.is_stored()) forget_stored(extent);
  host_pool_.discharge(extent.table_bytes());
}

Status Placement::demote(uint64_t byte_count) {
  std::vector<Extent*> victims;
  uint64_t victim_bytes = 0;
  const auto take = [&](auto&& is_meant) {
    for (Extent* extent : resident_) {
      if (victim_bytes >= byte_count) break;
      if (!is_meant(*extent)) continue;
      victims.push_back(extent);
      victim_bytes += extent->byte_count();
    }
  };
  // Where writes are short, what is in the store already comes first: it costs none.
  const bool spares_writes = store_ != nullptr && store_->writes_are_short();
  if (spares_writes) take([](const Extent& extent) { return extent.is_stored(); });
  take([&](const Extent& extent) { return !spares_writes || !extent.is_stored(); });
  return pinned_ != nullptr ? copy_out(victims) : write_out(victims);
}

Status Placement::copy_out(const std::vector<Extent*>& extents) {
  bool any_moved = false;
  for (Extent* extent : extents) {
    Result<MemoryBuffer> room = pinned_->allocate(extent->byte_count(), "blocks out of HBM");
    if (!room.ok()) return any_moved ? Status() : room.status();
    VKV_TRY(backend_.copy(room.value().data(), extent->bytes_.data(), extent->byte_count()));
    moved(*extent, std::move(room.value()));
    any_moved = true;
  }
  return {};
}

Status Placement::demote_originals() {
  std::vector<Extent*> originals;  // they come first in the order of value
  do {
    originals.clear();
    for (Extent* extent : resident_) {
      if (extent->kind() != ExtentKind::kOriginal) break;
      originals.push_back(extent);
    }
    VKV_TRY(write_out(originals));
  } while (!originals.empty());
  return {};
}

Status Placement::write_out(const std::vector<Extent*>& extents) {
  // 1. Hand all of them to the store, as far as there is room. What is there already costs nothing.
  Status status;
  bool any_moved = false;
  std::vector<std::pair<Extent*, IoTicket>> writes;
  for (Extent* extent : extents) {
    if (extent->is_stored()) {
      moved(*extent, MemoryBuffer());
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
    moved(*extent, MemoryBuffer());
    any_moved = true;
  }
  return any_moved ? Status() : status;  // some room was made: the caller tries again
}

}  // namespace vkv
