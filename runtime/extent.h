// extent.h: a run of records of one layer, adjacent in memory: the unit of moving.
// SPDX-License-Identifier: Apache-2.0
//
// An extent is made in DRAM, written once, and never changes. Sequences that fork share it. It may
// move to NVMe; its bytes are the same there.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/base/block_format.h"
#include "runtime/charged_bytes.h"
#include "transfer/block_store.h"
#include "transfer/dram_pool.h"
#include "vkv/types.h"

namespace vkv {

// Block table entry: one record of an extent.
struct Block {
  Codec k_codec = Codec::kF16;
  Codec v_codec = Codec::kF16;
  bool centred = false;
  bool k_rotated = false;
  bool v_per_token = false;
  bool high = false;  // class of its tokens
  uint16_t token_count = 0;
  uint32_t record_bytes = 0;
  uint64_t record_offset = 0;  // bytes, in the extent
  std::array<uint16_t, kRoleCount> role_token_count{};
};

class Placement;

// Headers that the blocks of a segment share. Stay in DRAM while any of the blocks exists.
using SharedHeaders = std::shared_ptr<const ChargedBytes>;

class Extent {
 public:
  Extent(int layer, uint64_t serial, std::vector<Block> blocks, DramBuffer bytes,
         SharedHeaders headers);
  ~Extent();
  Extent(const Extent&) = delete;
  Extent& operator=(const Extent&) = delete;

  int layer() const { return layer_; }
  uint64_t serial() const { return serial_; }  // order of sealing
  Tier tier() const { return bytes_ ? Tier::kDram : Tier::kNvme; }
  uint64_t byte_count() const { return byte_count_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const SharedHeaders& headers() const { return headers_; }
  bool high() const { return blocks_.front().high; }  // one class an extent
  uint64_t table_bytes() const { return sizeof(Extent) + blocks_.size() * sizeof(Block); }

  DramBuffer& dram() { return bytes_; }
  StoreExtent& stored() { return stored_; }

  // Views of its blocks where the bytes lie now: `base` is its DRAM or a staging slot.
  void append_views(const KvShape& shape, const std::byte* base,
                    std::vector<BlockView>& views) const;

 private:
  friend class Placement;

  const int layer_;
  const uint64_t serial_;
  const uint64_t byte_count_;
  const std::vector<Block> blocks_;
  const SharedHeaders headers_;  // nullptr: the records hold their own
  DramBuffer bytes_;             // empty on NVMe
  StoreExtent stored_;           // byte_count 0 in DRAM
  Placement* placement_ = nullptr;
};

}  // namespace vkv
