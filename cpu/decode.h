// decode.h: a record -> K and V, code by code, for the reference engine, tests and inspection.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/base/block_format.h"
#include "vkv/types.h"

namespace vkv {

// Decodes one KV head of a block: k and v are [token_count, head_dim].
// Rotated K is rotated back. k_mean: [kv_heads, head_dim], added back where the block is centred;
// nullptr is zero.
void decode_head(const KvShape& shape, const BlockView& block, int kv_head, const float* k_mean,
                 float* k, float* v);

}  // namespace vkv
