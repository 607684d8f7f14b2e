// attend_work.h: what the host tells the attention kernels to do.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector_types.h>

#include <cstdint>

#include "runtime/base/backend.h"

namespace vkv {

// One AttendItem. All pointers are the device's; blocks and tokens may lie in mapped host memory.
struct AttendSource {
  const float* q = nullptr;       // [q_len, q_heads, head_dim]
  const float* k_mean = nullptr;  // [kv_heads, head_dim]; nullptr: zero
  const BlockView* blocks = nullptr;
  const uint16_t* open_k = nullptr;  // [open_count, kv_heads, head_dim]
  const uint16_t* open_v = nullptr;
  float* out = nullptr;  // [q_len, q_heads, head_dim]
  float* lse = nullptr;  // [q_len, q_heads]
  int block_count = 0;
  int open_count = 0;
  int q_len = 0;
  int q_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  float scale = 1.0f;
  Codec open_codec = Codec::kF16;
  bool causal = false;
  bool any_rotated = false;  // of the blocks
};

// What one thread block does: some query rows of one KV head over some units of one source. A unit
// is a block, or behind those a run of kOpenUnitTokens open tokens. Row r of a KV head is query
// r / group and the r % group-th query head of that KV head.
struct AttendTask {
  int source = 0;
  int kv_head = 0;
  int row_begin = 0;
  int unit_begin = 0;
  int unit_end = 0;
  int slot = 0;  // of its partial
};

// Partials of the same rows: slots [slot_begin, slot_end).
struct MergeTask {
  int source = 0;
  int kv_head = 0;
  int row_begin = 0;
  int slot_begin = 0;
  int slot_end = 0;
};

inline constexpr int kTaskUnitsMax = 96;  // block table entries that a thread block copies
inline constexpr int kRowsPerTile = 4;    // query rows of a product: a column each for hi and lo
inline constexpr int kSlotRowsMost = 2 * kRowsPerTile;

// Tokens of a unit with so many padded channels, at most: those of a block.
VKV_HD constexpr int unit_tokens(int channels) { return tokens_per_block(channels); }

// Of open tokens. A warp that took as many of them as a block has would take several times as long
// as for the block, and all others would wait for it.
inline constexpr int kOpenUnitTokens = kTokenGranule;

// Where partials go: each slot has rows x channels sums of p v and rows pairs (m, l) of base-2
// maximum and sum of p.
struct PartialSlots {
  float* out = nullptr;           // [slots, rows, channels]
  float2* max_and_sum = nullptr;  // [slots, rows]
};

}  // namespace vkv
