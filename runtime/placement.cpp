// placement.cpp: demotion from DRAM to NVMe.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/placement.h"

#include <string>
#include <utility>

namespace vkv {

bool Placement::LeastValueFirst::operator()(const Extent* a, const Extent* b) const {
  if (a->kind() != b->kind()) return a->kind() < b->kind();
  if (a->layer() != b->layer()) return a->layer() > b->layer();
  return a->serial() > b->serial();
}

Result<MemoryBuffer> Placement::allocate(uint64_t byte_count, std::string_view purpose) {
  Result<MemoryBuffer> buffer = pool_.allocate(byte_count, purpose);
  while (!buffer.ok() && buffer.status().code() == Code::kOutOfMemory && store_ != nullptr &&
         !resident_.empty()) {
    VKV_TRY(demote(byte_count));
    buffer = pool_.allocate(byte_count, purpose);
  }
  return buffer;
}

Result<std::shared_ptr<Extent>> Placement::admit(int layer, ExtentContent content,
                                                 MemoryBuffer bytes) {
  auto extent =
      std::make_shared<Extent>(layer, next_serial_++, std::move(content), std::move(bytes));
  Status charged = pool_.charge(extent->table_bytes(), "block table");
  if (!charged.ok() && store_ != nullptr && !resident_.empty()) {
    VKV_TRY(demote(extent->table_bytes()));
    charged = pool_.charge(extent->table_bytes(), "block table");
  }
  VKV_TRY(charged);
  extent->placement_ = this;
  resident_.insert(extent.get());
  resident_bytes_ += extent->byte_count();
  if (extent->kind() == ExtentKind::kOriginal) original_bytes_of(*extent) += extent->byte_count();
  while (store_ != nullptr && resident_bytes_ > block_bytes_max_)
    VKV_TRY(demote(resident_bytes_ - block_bytes_max_));
  return extent;
}

uint64_t& Placement::original_bytes_of(const Extent& extent) {
  return original_bytes_[static_cast<size_t>(extent.tier())];
}

void Placement::forget(Extent& extent) {
  if (extent.kind() == ExtentKind::kOriginal) original_bytes_of(extent) -= extent.byte_count();
  if (extent.tier() == Tier::kDram) {
    resident_.erase(&extent);
    resident_bytes_ -= extent.byte_count();
  } else {
    store_->release(extent.stored_);
    --nvme_extents_;
  }
  pool_.discharge(extent.table_bytes());
}

Status Placement::demote(uint64_t byte_count) {
  std::vector<Extent*> victims;
  uint64_t victim_bytes = 0;
  for (Extent* extent : resident_) {
    if (victim_bytes >= byte_count) break;
    victims.push_back(extent);
    victim_bytes += extent->byte_count();
  }
  return write_out(victims);
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
  // 1. Hand all of them to the store, as far as there is room.
  Status status;
  std::vector<std::pair<Extent*, IoTicket>> writes;
  for (Extent* extent : extents) {
    Result<StoreExtent> room = store_->reserve(extent->byte_count());
    if (!room.ok()) {
      status = room.status();
      break;
    }
    extent->stored_ = room.value();
    Result<IoTicket> ticket = store_->submit_write(extent->stored_, extent->bytes_.bytes());
    if (!ticket.ok()) {
      store_->release(std::exchange(extent->stored_, {}));
      status = ticket.status();
      break;
    }
    writes.emplace_back(extent, ticket.value());
  }

  // 2. Those that arrived leave DRAM; the others stay where they were.
  bool any_moved = false;
  for (auto [extent, ticket] : writes) {
    Status written = store_->wait(ticket);
    if (!written.ok()) {
      store_->release(std::exchange(extent->stored_, {}));
      if (status.ok()) status = written;
      continue;
    }
    resident_.erase(extent);
    resident_bytes_ -= extent->byte_count();
    const bool original = extent->kind() == ExtentKind::kOriginal;
    if (original) original_bytes_of(*extent) -= extent->byte_count();
    extent->bytes_ = MemoryBuffer();
    if (original) original_bytes_of(*extent) += extent->byte_count();
    ++nvme_extents_;
    demoted_bytes_ += extent->byte_count();
    any_moved = true;
  }
  return any_moved ? Status() : status;  // some room was made: the caller tries again
}

}  // namespace vkv
