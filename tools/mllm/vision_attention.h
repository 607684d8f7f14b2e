// vision_attention.h: attention inside pictures or windows, by oneDNN in fp32.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "vkv/status.h"

namespace vkv {

// out = softmax(q k^T) v of every head of every part; q is scaled already. Parts lie one behind the
// other, and each position sees all of its part.
struct VisionAttentionParams {
  const float *q = nullptr, *k = nullptr, *v = nullptr;  // [parts, positions, heads, head_dim]
  int64_t stride = 0;    // values from one position of q, k and v to the next
  float* out = nullptr;  // [parts, positions, heads, head_dim]
  int64_t parts = 0;
  int64_t positions = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
};

// `scores` grows to parts * heads * positions^2 values, or to those of one part where so many are
// more than 64 million. On the TBB arena of the caller. Errors: oneDNN's.
Status vision_attention(const VisionAttentionParams& params, std::vector<float>& scores);

}  // namespace vkv
