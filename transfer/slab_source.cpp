// slab_source.cpp: the first slab with room; a new one where there is none.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/slab_source.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "runtime/base/block_format.h"

namespace vkv {

SlabSource::~SlabSource() {
  for (Slab& slab : slabs_) {
    VKV_CHECK(slab.space->used_bytes() == 0);
    upstream_->unmap(slab.bytes.data(), slab.bytes.size());
  }
}

Status SlabSource::add_slab(uint64_t byte_count) {
  VKV_TRY_ASSIGN(data, upstream_->map(byte_count));
  Slab slab{.bytes = {data, byte_count}, .space = std::make_unique<FileSpace>(0)};
  slab.space->extend(byte_count);
  slabs_.push_back(std::move(slab));
  return {};
}

std::byte* SlabSource::find_room(uint64_t byte_count) {
  for (Slab& slab : slabs_) {
    const std::optional<uint64_t> offset = slab.space->allocate(byte_count);
    if (offset) return slab.bytes.data() + *offset;
  }
  return nullptr;
}

Result<std::byte*> SlabSource::map(uint64_t byte_count) {
  if (std::byte* const data = find_room(byte_count)) return data;
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
  return find_room(byte_count);
}

void SlabSource::unmap(std::byte* data, uint64_t byte_count) {
  const auto slab = std::find_if(slabs_.begin(), slabs_.end(), [&](const Slab& candidate) {
    return data >= candidate.bytes.data() && data < candidate.bytes.data() + candidate.bytes.size();
  });
  VKV_CHECK(slab != slabs_.end());
  slab->space->release(static_cast<uint64_t>(data - slab->bytes.data()), byte_count);
}

}  // namespace vkv
