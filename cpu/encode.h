// encode.h: 16-bit K and V -> records.
// SPDX-License-Identifier: Apache-2.0
//
// The rules are those of runtime/base/codec.h, the bytes those of runtime/base/block_format.h.
// All calls block, and work in parallel in the task arena of the calling thread; the result depends
// neither on the number of threads nor on the set of loops.
#pragma once

#include <cstdint>
#include <span>

#include "cpu/strip_functions.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// Writes every byte of each item's record. On an error the records hold nothing of use.
// Errors: kInvalidArgument for a value that is not finite, or a range that fp16 scales and zeros
// cannot hold: names K or V, KV head and channel, or token for V per token.
Status encode_blocks(std::span<const EncodeItem> items, const StripFunctions& loops);

// Headers over all of item.rows, [kv_heads], at item.record.
Status encode_segment_headers(const EncodeItem& item, const StripFunctions& loops);

// mean: [kv_heads, head_dim].
Status mean_of_keys(const KvShape& shape, const OpenTokens& source, std::span<const uint32_t> rows,
                    float* mean, const StripFunctions& loops);

}  // namespace vkv
