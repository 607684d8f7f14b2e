// saved_state.h: what a sequence needs besides its records to be used again, as bytes.
// SPDX-License-Identifier: Apache-2.0
//
// State version 1, little-endian, without padding; `n` values are written as they are:
//
//   "VKVSTATE", u32 version
//   u32 bytes of the model section, and it: what must be the same in the cache that restores.
//     i32 layers, q_heads, kv_heads, head_dim, recent_tokens; u8 open codec, keep_original
//     the policy: high pair, low pair, f64 high_fraction, f64 visual_high_fraction_max,
//       i32 sink_tokens, f64 sink_sigmas, u8 segment_headers, u32 overrides, each i32 layer, pairs
//     a pair: u8 K codec, u8 V codec, u8 k_rotated, u8 v_per_token, f32 k_spread, f32 v_spread
//   u32 tokens, u8 role of each
//   for each layer:
//     u8 has a mean, f32 [kv_heads, head_dim]; u64 other, visual, visual_high
//     u32 open tokens, u32 position of each, u8 class of each, u16 K of all, u16 V of all
//     u32 shared headers, each u32 bytes, and they
//     three lists: extents, promoted, originals; each u32 count, and for each extent
//       u32 index among the extents behind the state, u32 shared headers or 2^32 - 1, u8 kind
//       u32 originals, u8 their codec
//       u32 blocks, each a pair, u8 centred, u8 high, u16 tokens, u32 record bytes, u64 record
//         offset, u16 tokens of each role [4]
//       u8 has a live mask, u32 words of it
//     u8 has sums of V, f64 [kv_heads, head_dim]
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/extent.h"
#include "runtime/precision.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct SavedExtent {
  static constexpr uint32_t kOwnHeaders = UINT32_MAX;

  uint32_t index = 0;  // among the extents of the sequence
  uint32_t headers = kOwnHeaders;
  ExtentKind kind = ExtentKind::kLow;
  std::vector<Block> blocks;
  uint32_t original_count = 0;
  Codec original_codec = Codec::kF16;
  std::vector<uint32_t> live;  // empty: all tokens count
};

struct SavedLayer {
  std::vector<float> mean;  // [kv_heads, head_dim], or empty
  PrecisionCounts counts;
  std::vector<uint32_t> positions;  // of the open tokens, ascending
  std::vector<TokenClass> classes;
  std::vector<uint16_t> k, v;  // [open tokens, kv_heads, head_dim]
  std::vector<std::vector<std::byte>> headers;
  std::vector<SavedExtent> extents, promoted, originals;
  std::vector<double> original_v_sum;  // [kv_heads, head_dim], or empty
};

struct SavedState {
  std::vector<Role> roles;
  std::vector<SavedLayer> layers;
};

// Of the model section: equal for caches that can restore each other's sequences.
uint32_t generation_of(const CacheOptions& options);

std::vector<std::byte> encode_state(const CacheOptions& options, const SavedState& state);

// extent_bytes: of the extents behind the state. Whatever the bytes are, what comes out can be used
// with them. Errors: kInvalidArgument for a state of other options, kUnsupported for another
// version, kDataLoss for anything else.
Result<SavedState> decode_state(const CacheOptions& options, std::span<const std::byte> bytes,
                                std::span<const uint64_t> extent_bytes);

}  // namespace vkv
