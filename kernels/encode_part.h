// encode_part.h: K or V of one item as the encoder's kernels see it, and how they tell of errors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/base/block_format.h"

namespace vkv {

// All pointers are such that kernels can read them: of the device, or of mapped pinned memory.
struct EncodePart {
  const uint16_t* source = nullptr;  // K or V: [tokens, kv_heads, head_dim], 16-byte aligned
  const float* mean = nullptr;       // [kv_heads, head_dim], subtracted; nullptr: zero
  const uint32_t* rows = nullptr;    // [row_count]; nullptr: first_row, first_row + 1, ...
  uint16_t* scales = nullptr;        // KV head 0: [lanes] scales, [lanes] zeros; nullptr: no header
  std::byte* payload = nullptr;      // of KV head 0
  uint32_t head_header = 0;          // bytes from one KV head's scales to the next one's
  uint32_t head_payload = 0;         // bytes from one KV head's payload to the next one's
  uint32_t item = 0;                 // in the order of calls, for errors
  uint32_t first_row = 0;
  int row_count = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int padded_rows = 0;  // of the payload: row_count rounded up to 32
  float spread = 1.0f;
  Codec codec = Codec::kF16;
  bool bfloat = false;  // the source is bf16, else fp16
  bool is_v = false;
  bool rotated = false;
  bool lanes_are_tokens = false;  // V per token
  bool shared_header = false;     // scales are read, not found

  // Lanes and samples as in cpu/strip_functions.h: a lane has one scale, found from its samples.
  VKV_HD int lanes() const { return lanes_are_tokens ? padded_rows : padded_channels(head_dim); }
  VKV_HD int samples() const { return lanes_are_tokens ? head_dim : row_count; }
  VKV_HD size_t row_stride() const { return static_cast<size_t>(kv_heads) * head_dim; }
  VKV_HD uint32_t row(int index) const {
    return rows == nullptr ? first_row + static_cast<uint32_t>(index) : rows[index];
  }
  // The values of one token and KV head: [head_dim].
  VKV_HD const uint16_t* token(int kv_head, int index) const {
    return source + row(index) * row_stride() + static_cast<size_t>(kv_head) * head_dim;
  }
};

// Parts that one kernel encodes.
struct EncodeLaunch {
  const EncodePart* parts = nullptr;  // [part_count], of the device
  uint32_t part_count = 0;
  int kv_heads_max = 0;
  int lanes_max = 0;                // of a KV head
  int samples_max = 0;              // of a lane
  bool rotated = false;             // all parts, or none
  uint64_t* first_error = nullptr;  // of the device: the least error_key() so far
};

// In the order in which the CPU's encoder would find them in a KV head of K or V.
enum class EncodeError : uint32_t { kNotFinite, kRotation, kChannelRange, kTokenRange, kTooLarge };

inline constexpr uint64_t kNoEncodeError = ~uint64_t{0};
inline constexpr int kErrorKvHeadsMax = 4096;

// The least key is the error that the CPU's encoder would return. `index`: of channel or token.
VKV_HD constexpr uint64_t error_key(const EncodePart& part, int kv_head, EncodeError error,
                                    int index) {
  return static_cast<uint64_t>(part.item) << 32 | static_cast<uint64_t>(kv_head) << 20 |
         static_cast<uint64_t>(part.is_v) << 19 | static_cast<uint64_t>(error) << 16 |
         static_cast<uint64_t>(index);
}

}  // namespace vkv
