// open_block.h: the tokens of one layer of one sequence that are not encoded, at 16 bit.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "runtime/base/backend.h"
#include "runtime/precision.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

class Placement;

// Rows in the order of the sequence: sinks and leftovers of classes first, the newest tokens last.
// All of it lies in one buffer of the DRAM pool.
class OpenBlock {
 public:
  static constexpr size_t kGrowthTokens = 64;  // decode adds one at a time

  // Of one token with its position and class.
  static size_t row_bytes(const KvShape& shape) {
    return sizeof(uint32_t) + sizeof(TokenClass) +
           2 * sizeof(uint16_t) * static_cast<size_t>(shape.kv_heads * shape.head_dim);
  }

  OpenBlock() = default;
  OpenBlock(const KvShape& shape, Codec codec) : shape_(shape), codec_(codec) {}

  int token_count() const { return token_count_; }
  uint64_t byte_count() const { return buffer_.bytes().size(); }
  OpenTokens tokens() const;
  std::span<const uint32_t> positions() const { return {positions(buffer_), rows()}; }
  std::span<const TokenClass> classes() const { return {classes(buffer_), rows()}; }
  std::span<TokenClass> classes() { return {classes(buffer_), rows()}; }

  // Converts and adds the newest tokens. k, v: [count, kv_heads, head_dim] of `element`.
  // Errors: kInvalidArgument naming the value that is not finite or overflows, kOutOfMemory;
  // nothing is added then.
  Status append(Placement& placement, ElementType element, const void* k, const void* v, int count,
                uint32_t first_position);

  // Drops rows that `gone` marks. [token_count]
  void remove(std::span<const uint8_t> gone);
  void drop_newest(int count) { token_count_ -= count; }

  // Gives back memory that is not needed now, where another buffer can be had for the rest.
  void shrink(Placement& placement);

  Result<OpenBlock> clone(Placement& placement) const;

 private:
  size_t rows() const { return static_cast<size_t>(token_count_); }
  size_t row_values() const { return static_cast<size_t>(shape_.kv_heads * shape_.head_dim); }
  uint16_t* k(const MemoryBuffer& buffer) const;
  uint16_t* v(const MemoryBuffer& buffer) const;
  uint32_t* positions(const MemoryBuffer& buffer) const;
  TokenClass* classes(const MemoryBuffer& buffer) const;
  size_t capacity(const MemoryBuffer& buffer) const {
    return buffer.bytes().size() / row_bytes(shape_);
  }
  // Moves the rows to a buffer for at least `capacity` of them.
  Status reallocate(Placement& placement, size_t capacity);
  void copy_rows(MemoryBuffer& target) const;

  KvShape shape_;
  Codec codec_ = Codec::kF16;
  int token_count_ = 0;
  MemoryBuffer buffer_;  // positions, k, v, classes: an array each
};

}  // namespace vkv
