// batch_attention.h: one layer's attention of a batch: rows of several sequences, one call.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tools/mllm/forward_request.h"
#include "vkv/cache.h"

namespace vkv {

// Of one layer, fp32, in memory of the cache's device: a row a token, request after request.
struct AttentionRows {
  const float* q = nullptr;  // [tokens, q_width]
  const float* k = nullptr;  // [tokens, kv_width]
  const float* v = nullptr;  // [tokens, kv_width]
  float* out = nullptr;      // [tokens, q_width]
  int64_t q_width = 0;
  int64_t kv_width = 0;
};

// K and V of all tokens go to the cache, but only the queries from row `first` on, which lies in
// the first request; `out` of the rows before is left as it is. Errors: those of Cache::append and
// Cache::attend.
Status append_and_attend(Cache& cache, int layer, ForwardBatch batch, int64_t first,
                         const AttentionRows& rows);

// Of logits of every token of a batch [tokens, vocabulary], those that were asked for.
std::vector<float> asked_logits(ForwardBatch batch, std::span<const float> logits,
                                int64_t vocabulary);

}  // namespace vkv
