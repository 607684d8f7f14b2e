// sequence.h: what the cache knows of one sequence.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/charged_bytes.h"
#include "runtime/extent.h"
#include "runtime/open_block.h"
#include "runtime/precision.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

// Views of the blocks of a layer that lies in the memory of a GPU as a whole. A step of many
// sequences asks for a million of them, and they stay the same for a hundred steps. Immutable.
struct KeptViews {
  std::vector<BlockView> views;
  size_t extent_count = 0;  // of the layer when they were made
  uint64_t move_count = 0;  // of the placement
  uint64_t id = 0;          // as AttendItem::blocks_id
  MemoryCharge charge;
};

// One layer: every token counts in exactly one block of one extent, or is open.
struct LayerState {
  std::vector<ExtentUse> extents;   // in the order of sealing, which is that of merging
  std::vector<ExtentUse> promoted;  // high copies of low tokens; merged after them
  // 16 bit, of every token of the low extents, in the order of those; empty if none are kept.
  std::vector<ExtentUse> originals;
  std::vector<double> original_v_sum;  // [kv_heads, head_dim]: of V over them
  OpenBlock open;
  std::shared_ptr<const ChargedBytes> mean;  // float [kv_heads, head_dim], fixed at the first seal
  PrecisionCounts counts;
  uint32_t token_count = 0;
  mutable std::shared_ptr<const KeptViews> kept_views;  // what Attention wants to know again
  uint64_t sealing = 0;  // Backend::join() of it before an engine touches the layer

  const float* mean_values() const {
    return mean ? reinterpret_cast<const float*>(mean->data()) : nullptr;
  }
};

struct SequenceState {
  Status failure;           // found late, when it already had what is wrong; only erase() is left
  std::vector<Role> roles;  // of every token
  std::vector<LayerState> layers;
  bool was_restored = false;  // it, or what it was forked from
};

}  // namespace vkv
