// prefill_work.h: what the host tells the kernels around a library's attention to do.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// Some tokens: a block, or a run of open tokens no longer than one.
struct PrefillUnit {
  BlockView block;                   // of open tokens: k_codec, v_codec and token_count alone
  const uint16_t* open_k = nullptr;  // [token_count, kv_heads, head_dim]; nullptr: a block
  const uint16_t* open_v = nullptr;
};

// Tokens of a piece as the library reads them: the live ones, in order and without gaps, as fp16 K
// less the mean and V. All of it is device memory, but what units point to may be mapped.
//
// bf16 may be too large for fp16: where a value of a piece is, K and V are divided by a power of
// two, which the queries and the output make up for.
struct PrefillPiece {
  KvShape shape;
  const PrefillUnit* units = nullptr;  // [unit_count]
  int unit_count = 0;
  bool any_bf16 = false;          // of the units
  const float* k_mean = nullptr;  // [kv_heads, head_dim]; nullptr: zero
  int token_count_max = 0;
  uint16_t* k = nullptr;          // [kv_heads, token_count_max, head_dim]
  uint16_t* v = nullptr;          // [kv_heads, token_count_max, head_dim]
  int* unit_begin = nullptr;      // [unit_count + 1]: where the tokens of a unit begin
  uint32_t* magnitude = nullptr;  // [2]: fp32 bits of the largest |K| and |V|; 0 if all fits
};

// Queries of an item, and what came out for them.
struct PrefillQueries {
  KvShape shape;
  float scale = 1.0f;
  int query_count = 0;
  int hidden_tokens = 0;              // last ones of the piece that none of the queries sees
  const float* q = nullptr;           // [query_count, q_heads, head_dim]
  const int* piece_tokens = nullptr;  // the piece's unit_begin[unit_count]
  const uint32_t* magnitude = nullptr;
  uint16_t* q_half = nullptr;  // [query_count, q_heads, head_dim]: scaled
  int* counts = nullptr;       // [2]: queries, and tokens of the piece that they see
};

// Attention over a piece, to be merged into that over the pieces before.
struct PrefillPartial {
  KvShape shape;
  int query_count = 0;
  int query_count_max = 0;
  bool first = false;                // there is nothing before
  const uint16_t* out = nullptr;     // [query_count, q_heads, head_dim]
  const float* lse = nullptr;        // [q_heads, query_count_max]
  const int* token_count = nullptr;  // that they see: 0 where all are dead
  const uint32_t* magnitude = nullptr;
  float* merged_out = nullptr;  // [query_count, q_heads, head_dim]
  float* merged_lse = nullptr;  // [query_count, q_heads]
};

// All are queued on the stream.
Status launch_decode_records(const PrefillPiece& piece, cudaStream_t stream);
Status launch_prefill_queries(const PrefillQueries& queries, cudaStream_t stream);
Status launch_prefill_merge(const PrefillPartial& partial, cudaStream_t stream);

}  // namespace vkv
