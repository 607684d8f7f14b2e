// batch_attention.cpp: one layer's attention of a batch: rows of several sequences, one call.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/batch_attention.h"

namespace vkv {

Status append_and_attend(Cache& cache, int layer, ForwardBatch batch, int64_t first,
                         const AttentionRows& rows) {
  std::vector<AppendRequest> appends;
  std::vector<AttendRequest> attends;
  int64_t begin = 0;
  for (const ForwardRequest& request : batch) {
    const auto tokens = static_cast<int64_t>(request.tokens.size());
    appends.push_back({.sequence = request.sequence,
                       .token_count = static_cast<int>(tokens),
                       .k = rows.k + begin * rows.kv_width,
                       .v = rows.v + begin * rows.kv_width,
                       .roles = request.roles});
    const int64_t query = begin == 0 ? first : begin;
    attends.push_back({.sequence = request.sequence,
                       .q_len = static_cast<int>(begin + tokens - query),
                       .q = rows.q + query * rows.q_width,
                       .out = rows.out + query * rows.q_width,
                       .ends_window = request.ends_window});
    begin += tokens;
  }
  VKV_TRY(cache.append(layer, appends));
  return cache.attend(layer, attends);
}

std::vector<float> asked_logits(ForwardBatch batch, std::span<const float> logits,
                                int64_t vocabulary) {
  std::vector<float> asked;
  asked.reserve(static_cast<size_t>(logit_count(batch) * vocabulary));
  const float* end = logits.data();
  for (const ForwardRequest& request : batch) {
    end += static_cast<int64_t>(request.tokens.size()) * vocabulary;
    asked.insert(asked.end(), end - request.logit_count * vocabulary, end);
  }
  return asked;
}

}  // namespace vkv
