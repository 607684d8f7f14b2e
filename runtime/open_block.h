// open_block.h: the tokens of one layer of one sequence that are not encoded, at 16 bit.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/backend.h"
#include "runtime/precision.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

class Placement;

// "k of token 5, KV head 1, channel 6 is inf; it must be finite in f16". first_position: of the
// append's first token.
std::string words_of(const BadValue& bad, const KvShape& shape, Codec codec,
                     uint32_t first_position);

// Rows in the order of the sequence: sinks and leftovers of classes first, the newest tokens last.
// K and V lie in one buffer of the engine's memory, positions and classes on the host.
class OpenBlock {
 public:
  static constexpr size_t kGrowthTokens = 64;  // decode adds one at a time

  // Of one token, in the engine's memory and on the host.
  static size_t kv_bytes(const KvShape& shape) {
    return 2 * sizeof(uint16_t) * static_cast<size_t>(shape.kv_heads * shape.head_dim);
  }
  static constexpr size_t kLabelBytes = sizeof(uint32_t) + sizeof(TokenClass);

  OpenBlock() = default;
  OpenBlock(const KvShape& shape, Codec codec) : shape_(shape), codec_(codec) {}

  int token_count() const { return static_cast<int>(rows()); }
  OpenTokens tokens() const;
  std::span<const uint32_t> positions() const { return positions_; }
  std::span<const TokenClass> classes() const { return classes_; }
  std::span<TokenClass> classes() { return classes_; }

  // What an engine shall convert, behind the newest tokens, where there is room now. k, v: [count,
  // kv_heads, head_dim] of `element`. Nothing is added before add_newest(). Errors: kOutOfMemory.
  Result<AppendItem> room_for(Placement& placement, ElementType element, const void* k,
                              const void* v, int count);
  void add_newest(int count, uint32_t first_position);

  // Drops rows that `gone` marks. [token_count] Fails only as the engine does.
  Status remove(Backend& backend, std::span<const uint8_t> gone);
  void drop_newest(int count);

  // Gives back memory that is not needed now, where another buffer can be had for the rest.
  void shrink(Placement& placement);

  Result<OpenBlock> clone(Placement& placement) const;

  // Fills an empty one, from host memory. positions, classes: one a row; k, v: [rows, kv_heads,
  // head_dim] of the codec. Errors: kOutOfMemory.
  Status assign(Placement& placement, std::span<const uint32_t> positions,
                std::span<const TokenClass> classes, const uint16_t* k, const uint16_t* v);

 private:
  size_t rows() const { return positions_.size(); }
  size_t row_values() const { return static_cast<size_t>(shape_.kv_heads * shape_.head_dim); }
  size_t capacity(const MemoryBuffer& buffer) const {
    return buffer.bytes().size() / kv_bytes(shape_);
  }
  uint16_t* k(const MemoryBuffer& buffer) const;
  uint16_t* v(const MemoryBuffer& buffer) const;
  // Moves the rows to a buffer for at least `capacity` of them.
  Status reallocate(Placement& placement, size_t capacity);

  KvShape shape_;
  Codec codec_ = Codec::kF16;
  MemoryBuffer buffer_;  // k, v: an array each
  MemoryCharge label_charge_;
  std::vector<uint32_t> positions_;
  std::vector<TokenClass> classes_;
};

}  // namespace vkv
