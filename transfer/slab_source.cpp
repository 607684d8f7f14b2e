// slab_source.cpp: the first slab with room; a new one where there is none.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/slab_source.h"

#include <algorithm>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "runtime/base/block_format.h"

namespace vkv {
namespace {

constexpr uint64_t kSpareSlabs = 4;  // that the account has left where one is taken ahead

}  // namespace

SlabSource::~SlabSource() {
  end_growing();
  for (Slab& slab : slabs_) {
    VKV_CHECK(slab.space->used_bytes() == 0);
    upstream_->unmap(slab.bytes.data(), slab.bytes.size());
  }
}

Status SlabSource::add_slab(uint64_t byte_count) {
  VKV_TRY_ASSIGN(data, upstream_->map(byte_count));
  keep(data, byte_count, MemoryCharge());
  return {};
}

void SlabSource::keep(std::byte* data, uint64_t byte_count, MemoryCharge charge) {
  slabs_.push_back({.bytes = {data, byte_count},
                    .space = std::make_unique<FileSpace>(0),
                    .charge = std::move(charge)});
  slabs_.back().space->extend(byte_count);
}

void SlabSource::start_growing() {
  uint64_t room = 0;
  for (const Slab& slab : slabs_) room += slab.bytes.size() - slab.space->used_bytes();
  const uint64_t spare = account_->bytes_max() - account_->bytes_used();
  if (growth_ || room > slab_bytes_ / 2 || spare < kSpareSlabs * slab_bytes_) return;
  Result<MemoryCharge> charge = MemoryCharge::make(*account_, slab_bytes_, "pinned memory");
  if (!charge.ok()) return;
  try {
    growth_ = {
        .data = std::async(std::launch::async, [this] { return upstream_->map(slab_bytes_); }),
        .byte_count = slab_bytes_,
        .charge = std::move(charge.value())};
  } catch (const std::system_error&) {
    grows_ahead_ = false;  // no thread can be had: slabs come when they are needed
  }
}

void SlabSource::end_growing() {
  if (!growth_) return;
  const Result<std::byte*> data = growth_->data.get();
  if (data.ok())
    keep(data.value(), growth_->byte_count, std::move(growth_->charge));
  else
    grows_ahead_ = false;  // whoever needs one asks again, and hears why there is none
  growth_.reset();
}

std::byte* SlabSource::find_room(uint64_t byte_count) {
  for (Slab& slab : slabs_) {
    const std::optional<uint64_t> offset = slab.space->allocate(byte_count);
    if (offset) return slab.bytes.data() + *offset;
  }
  return nullptr;
}

Result<std::byte*> SlabSource::map(uint64_t byte_count) {
  std::byte* data = find_room(byte_count);
  if (data == nullptr && growth_) {
    end_growing();
    data = find_room(byte_count);
  }
  if (data == nullptr) {
    VKV_TRY(add_slab_for(byte_count));
    data = find_room(byte_count);
  }
  if (grows_ahead_) start_growing();
  return data;
}

Status SlabSource::add_slab_for(uint64_t byte_count) {
  uint64_t hole_bytes = 0;
  for (const Slab& slab : slabs_) hole_bytes = std::max(hole_bytes, slab.space->hole_bytes_max());
  if (account_ == nullptr)
    return Status(Code::kOutOfMemory, "the largest hole has " + std::to_string(hole_bytes) +
                                          "; a larger budget or smaller extents make room");

  uint64_t slab_bytes = std::max(slab_bytes_, byte_count);
  Result<MemoryCharge> charge = MemoryCharge::make(*account_, slab_bytes, "pinned memory");
  if (!charge.ok()) {
    slab_bytes = byte_count;
    charge = MemoryCharge::make(*account_, slab_bytes, "pinned memory");
  }
  VKV_TRY(charge.status());
  VKV_TRY(add_slab(slab_bytes));
  slabs_.back().charge = std::move(charge.value());
  return {};
}

void SlabSource::unmap(std::byte* data, uint64_t byte_count) {
  const auto slab = std::find_if(slabs_.begin(), slabs_.end(), [&](const Slab& candidate) {
    return data >= candidate.bytes.data() && data < candidate.bytes.data() + candidate.bytes.size();
  });
  VKV_CHECK(slab != slabs_.end());
  slab->space->release(static_cast<uint64_t>(data - slab->bytes.data()), byte_count);
}

}  // namespace vkv
