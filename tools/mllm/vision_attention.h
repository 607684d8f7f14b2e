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
  int64_t scores_max = int64_t{64} << 20;  // that `scores` holds; at least heads * positions
};

// `scores` grows to parts * heads * positions^2 values, or as far as scores_max lets it: a picture
// of 65,000 patches would need 256 GiB. The result does not depend on it. On the TBB arena of the
// caller. Errors: oneDNN's.
Status vision_attention(const VisionAttentionParams& params, std::vector<float>& scores);

}  // namespace vkv
