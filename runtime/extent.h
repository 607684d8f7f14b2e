// extent.h: a run of records of one layer, adjacent in memory: the unit of moving.
// SPDX-License-Identifier: Apache-2.0
//
// An extent is made in the engine's memory, DRAM or HBM, written once, and never changes. Sequences
// that fork share it. It may move to a slower tier, and back when it is restored; its bytes are the
// same there. It holds either
// encoded blocks, or the 16-bit originals of tokens whose encoded blocks lie in other extents.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/base/backend.h"
#include "runtime/charged_bytes.h"
#include "transfer/block_store.h"
#include "transfer/memory_pool.h"
#include "vkv/options.h"
#include "vkv/types.h"

namespace vkv {

inline BlockLayout block_layout(const KvShape& shape, const CodecPair& codecs, int token_count,
                                bool shared_headers = false) {
  return block_layout(shape.kv_heads, shape.head_dim, codecs.k, codecs.v, token_count,
                      shared_headers, codecs.v_per_token);
}

// Block table entry: one record of an extent.
struct Block {
  CodecPair codecs;
  bool centred = false;
  bool high = false;  // class of its tokens, all those of the extent
  uint16_t token_count = 0;
  uint32_t record_bytes = 0;
  uint64_t record_offset = 0;  // bytes, in the extent
  std::array<uint16_t, kRoleCount> role_token_count{};
};

class Placement;

// As an engine reads it. shared_headers: nullptr where the record holds its own.
BlockView view_of(const KvShape& shape, const Block& block, const std::byte* record,
                  const std::byte* shared_headers);

// Headers that the blocks of a segment share. Stay in the engine's memory while any of the blocks
// exists.
using SharedHeaders = std::shared_ptr<const ChargedBytes>;

// The order of value: what is needed least often is demoted first.
enum class ExtentKind : uint8_t {
  kOriginal = 0,  // read when a later question comes
  kLow = 1,
  kHigh = 2,
};

struct ExtentContent {
  ExtentKind kind = ExtentKind::kLow;
  std::vector<Block> blocks;
  SharedHeaders headers;  // nullptr: the records hold their own
  // Originals instead of blocks: K [count, kv_heads, head_dim], then V likewise.
  uint32_t original_count = 0;
  Codec original_codec = Codec::kF16;
};

class Extent {
 public:
  Extent(int layer, uint64_t serial, ExtentContent content, MemoryBuffer bytes);
  // In the store, and not in memory.
  Extent(int layer, uint64_t serial, ExtentContent content, const StoreExtent& stored);
  ~Extent();
  Extent(const Extent&) = delete;
  Extent& operator=(const Extent&) = delete;

  int layer() const { return layer_; }
  uint64_t serial() const { return serial_; }  // order of sealing
  Tier tier() const { return bytes_ ? bytes_.tier() : Tier::kNvme; }
  uint64_t byte_count() const { return byte_count_; }
  uint64_t payload_bytes() const;  // of it, what is not rounding
  ExtentKind kind() const { return content_.kind; }
  const std::vector<Block>& blocks() const { return content_.blocks; }
  const SharedHeaders& headers() const { return content_.headers; }
  uint32_t original_count() const { return content_.original_count; }
  Codec original_codec() const { return content_.original_codec; }
  uint64_t table_bytes() const { return sizeof(Extent) + blocks().size() * sizeof(Block); }

  // Where an engine reads it; nullptr on NVMe.
  const std::byte* memory() const { return bytes_.data(); }
  // The same bytes in the store; an extent in memory may be there too.
  const StoreExtent& stored() const { return stored_; }
  bool is_stored() const { return stored_.byte_count > 0; }

  // Views of its blocks where the bytes lie now: `base` is memory() or a staging slot.
  // live: words as in ExtentUse; nullptr: all tokens count.
  void append_views(const KvShape& shape, const std::byte* base, const uint32_t* live,
                    std::vector<BlockView>& views) const;
  OpenTokens originals(const KvShape& shape, const std::byte* base) const;

 private:
  friend class Placement;

  const int layer_;
  const uint64_t serial_;
  const uint64_t byte_count_;
  const ExtentContent content_;
  MemoryBuffer bytes_;  // empty on NVMe
  StoreExtent stored_;  // byte_count 0: not in the store
  Placement* placement_ = nullptr;
  bool may_rise_ = true;  // no disk has failed to read it for that
};

// 32-bit words with a bit for each token of a block.
inline size_t live_words(const Block& block) {
  return static_cast<size_t>(padded_tokens(block.token_count)) / 32;
}

// An extent as one sequence sees it.
struct ExtentUse {
  std::shared_ptr<Extent> extent;
  // uint32_t words, live_words() a block, one block after another: bit 1 where the token counts, 0
  // where a promoted copy does instead and behind the last token. nullptr: all count. Replaced,
  // never changed: forks share it.
  std::shared_ptr<const ChargedBytes> live;

  const uint32_t* live_begin() const {
    return live ? reinterpret_cast<const uint32_t*>(live->data()) : nullptr;
  }
};

}  // namespace vkv
