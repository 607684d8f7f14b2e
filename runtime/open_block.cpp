// open_block.cpp: conversion to 16 bit, and rows moving within one buffer.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/open_block.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "runtime/base/codec.h"
#include "runtime/placement.h"

namespace vkv {
namespace {

float load(ElementType element, const void* values, size_t index) {
  if (element == ElementType::kF32) return static_cast<const float*>(values)[index];
  return float_from_16_bit(codec_of(element), static_cast<const uint16_t*>(values)[index]);
}

// Returns the index of the first value that is not finite in `codec`, or `count`.
size_t convert(Codec codec, ElementType element, const void* source, uint16_t* target,
               size_t count) {
  const auto finite = [&](size_t i) { return is_finite(float_from_16_bit(codec, target[i])); };
  bool all_finite = true;
  for (size_t i = 0; i < count; ++i) {
    target[i] = float_to_16_bit(codec, load(element, source, i));
    all_finite &= finite(i);
  }
  size_t bad = all_finite ? count : 0;
  while (bad < count && finite(bad)) ++bad;
  return bad;
}

template <class T>
void keep_rows(T* rows, size_t values, std::span<const uint8_t> gone) {
  size_t kept = 0;
  for (size_t row = 0; row < gone.size(); ++row) {
    if (gone[row]) continue;
    if (kept != row) std::memmove(rows + kept * values, rows + row * values, values * sizeof(T));
    ++kept;
  }
}

}  // namespace

uint32_t* OpenBlock::positions(const MemoryBuffer& buffer) const {
  return reinterpret_cast<uint32_t*>(buffer.data());
}

uint16_t* OpenBlock::k(const MemoryBuffer& buffer) const {
  return reinterpret_cast<uint16_t*>(positions(buffer) + capacity(buffer));
}

uint16_t* OpenBlock::v(const MemoryBuffer& buffer) const {
  return k(buffer) + capacity(buffer) * row_values();
}

TokenClass* OpenBlock::classes(const MemoryBuffer& buffer) const {
  return reinterpret_cast<TokenClass*>(v(buffer) + capacity(buffer) * row_values());
}

OpenTokens OpenBlock::tokens() const {
  return {.codec = codec_, .token_count = token_count_, .k = k(buffer_), .v = v(buffer_)};
}

Status OpenBlock::append(Placement& placement, ElementType element, const void* k_source,
                         const void* v_source, int count, uint32_t first_position) {
  const size_t needed = rows() + static_cast<size_t>(count);
  if (needed > capacity(buffer_)) VKV_TRY(reallocate(placement, needed + kGrowthTokens));

  const size_t values = static_cast<size_t>(count) * row_values();
  const auto convert_into = [&](const char* which, const void* source, uint16_t* target) -> Status {
    const size_t bad = convert(codec_, element, source, target, values);
    if (bad == values) return {};
    const size_t head_dim = static_cast<size_t>(shape_.head_dim);
    return {
        Code::kInvalidArgument,
        std::string(which) + " of token " + std::to_string(first_position + bad / row_values()) +
            ", KV head " + std::to_string(bad % row_values() / head_dim) + ", channel " +
            std::to_string(bad % head_dim) + " is " + std::to_string(load(element, source, bad)) +
            "; it must be finite in " + std::string(name(codec_))};
  };
  VKV_TRY(convert_into("k", k_source, k(buffer_) + rows() * row_values()));
  VKV_TRY(convert_into("v", v_source, v(buffer_) + rows() * row_values()));
  for (int i = 0; i < count; ++i) {
    positions(buffer_)[token_count_ + i] = first_position + static_cast<uint32_t>(i);
    classes(buffer_)[token_count_ + i] = TokenClass::kUndecided;
  }
  token_count_ += count;
  return {};
}

void OpenBlock::remove(std::span<const uint8_t> gone) {
  VKV_CHECK(gone.size() == rows());
  keep_rows(positions(buffer_), 1, gone);
  keep_rows(k(buffer_), row_values(), gone);
  keep_rows(v(buffer_), row_values(), gone);
  keep_rows(classes(buffer_), 1, gone);
  token_count_ -= static_cast<int>(std::count(gone.begin(), gone.end(), uint8_t{1}));
}

void OpenBlock::shrink(Placement& placement) {
  const size_t needed = rows() + kGrowthTokens;
  if (capacity(buffer_) < 2 * needed) return;
  (void)reallocate(placement, needed);  // best effort: the larger buffer stays where this fails
}

Result<OpenBlock> OpenBlock::clone(Placement& placement) const {
  OpenBlock copy(shape_, codec_);
  if (token_count_ == 0) return copy;
  VKV_TRY_ASSIGN(buffer,
                 placement.allocate((rows() + kGrowthTokens) * row_bytes(shape_), "open tokens"));
  copy_rows(buffer);
  copy.token_count_ = token_count_;
  copy.buffer_ = std::move(buffer);
  return copy;
}

Status OpenBlock::reallocate(Placement& placement, size_t capacity) {
  VKV_TRY_ASSIGN(buffer, placement.allocate(capacity * row_bytes(shape_), "open tokens"));
  copy_rows(buffer);
  buffer_ = std::move(buffer);
  return {};
}

void OpenBlock::copy_rows(MemoryBuffer& target) const {
  if (token_count_ == 0) return;
  std::copy_n(positions(buffer_), rows(), positions(target));
  std::copy_n(k(buffer_), rows() * row_values(), k(target));
  std::copy_n(v(buffer_), rows() * row_values(), v(target));
  std::copy_n(classes(buffer_), rows(), classes(target));
}

}  // namespace vkv
