// open_block.cpp: rows added, dropped, and moved to another buffer.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/open_block.h"

#include <optional>
#include <string>
#include <utility>

#include "runtime/placement.h"

namespace vkv {

std::string words_of(const BadValue& bad, const KvShape& shape, Codec codec,
                     uint32_t first_position) {
  const size_t head_dim = static_cast<size_t>(shape.head_dim);
  const size_t row_values = static_cast<size_t>(shape.kv_heads) * head_dim;
  return std::string(bad.of_v ? "v" : "k") + " of token " +
         std::to_string(first_position + bad.index / row_values) + ", KV head " +
         std::to_string(bad.index % row_values / head_dim) + ", channel " +
         std::to_string(bad.index % head_dim) + " is " + std::to_string(bad.value) +
         "; it must be finite in " + std::string(name(codec));
}

uint16_t* OpenBlock::k(const MemoryBuffer& buffer) const {
  return reinterpret_cast<uint16_t*>(buffer.data());
}

uint16_t* OpenBlock::v(const MemoryBuffer& buffer) const {
  return k(buffer) + capacity(buffer) * row_values();
}

OpenTokens OpenBlock::tokens() const {
  return {.codec = codec_, .token_count = token_count(), .k = k(buffer_), .v = v(buffer_)};
}

Result<AppendItem> OpenBlock::room_for(Placement& placement, ElementType element,
                                       const void* k_source, const void* v_source, int count) {
  const size_t needed = rows() + static_cast<size_t>(count);
  if (needed > capacity(buffer_)) VKV_TRY(reallocate(placement, needed + kGrowthTokens));
  return AppendItem{.element = element,
                    .codec = codec_,
                    .value_count = static_cast<size_t>(count) * row_values(),
                    .k = k_source,
                    .v = v_source,
                    .k_target = k(buffer_) + rows() * row_values(),
                    .v_target = v(buffer_) + rows() * row_values()};
}

void OpenBlock::add_newest(int count, uint32_t first_position) {
  for (int i = 0; i < count; ++i) positions_.push_back(first_position + static_cast<uint32_t>(i));
  classes_.resize(positions_.size(), TokenClass::kUndecided);
}

Status OpenBlock::remove(Backend& backend, std::span<const uint8_t> gone) {
  VKV_CHECK(gone.size() == rows());
  std::vector<uint32_t> kept;
  for (uint32_t row = 0; row < gone.size(); ++row) {
    if (gone[row]) continue;
    positions_[kept.size()] = positions_[row];
    classes_[kept.size()] = classes_[row];
    kept.push_back(row);
  }
  if (kept.size() == rows()) return {};
  positions_.resize(kept.size());
  classes_.resize(kept.size());
  VKV_TRY(backend.keep_rows(k(buffer_), row_values(), kept));
  return backend.keep_rows(v(buffer_), row_values(), kept);
}

void OpenBlock::drop_newest(int count) {
  positions_.resize(rows() - static_cast<size_t>(count));
  classes_.resize(positions_.size());
}

void OpenBlock::shrink(Placement& placement) {
  const size_t needed = rows() + kGrowthTokens;
  if (capacity(buffer_) < 2 * needed) return;
  (void)reallocate(placement, needed);  // best effort: the larger buffer stays where this fails
}

Result<OpenBlock> OpenBlock::clone(Placement& placement) const {
  OpenBlock copy(shape_, codec_);
  if (rows() == 0) return Result<OpenBlock>(std::move(copy));
  VKV_TRY(copy.reallocate(placement, rows() + kGrowthTokens));
  const size_t byte_count = rows() * row_values() * sizeof(uint16_t);
  VKV_TRY(placement.backend().copy(copy.k(copy.buffer_), k(buffer_), byte_count));
  VKV_TRY(placement.backend().copy(copy.v(copy.buffer_), v(buffer_), byte_count));
  copy.positions_ = positions_;
  copy.classes_ = classes_;
  return Result<OpenBlock>(std::move(copy));
}

Status OpenBlock::assign(Placement& placement, std::span<const uint32_t> positions,
                         std::span<const TokenClass> classes, const uint16_t* k_source,
                         const uint16_t* v_source) {
  VKV_CHECK(rows() == 0 && positions.size() == classes.size());
  if (positions.empty()) return {};
  VKV_TRY(reallocate(placement, positions.size() + kGrowthTokens));
  const size_t byte_count = positions.size() * row_values() * sizeof(uint16_t);
  VKV_TRY(placement.backend().copy(k(buffer_), k_source, byte_count));
  VKV_TRY(placement.backend().copy(v(buffer_), v_source, byte_count));
  positions_.assign(positions.begin(), positions.end());
  classes_.assign(classes.begin(), classes.end());
  return {};
}

Status OpenBlock::reallocate(Placement& placement, size_t row_count) {
  VKV_TRY_ASSIGN(buffer, placement.allocate(row_count * kv_bytes(shape_), "open tokens"));
  VKV_TRY_ASSIGN(charge, MemoryCharge::make(placement.host_pool(), capacity(buffer) * kLabelBytes,
                                            "positions and classes of open tokens"));
  const size_t byte_count = rows() * row_values() * sizeof(uint16_t);
  VKV_TRY(placement.backend().copy(k(buffer), k(buffer_), byte_count));
  VKV_TRY(placement.backend().copy(v(buffer), v(buffer_), byte_count));
  buffer_ = std::move(buffer);
  label_charge_ = std::move(charge);
  return {};
}

}  // namespace vkv
