// saliency.cpp: softmax weights summed over queries and heads, times how unlike the others V is.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/saliency.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/parallel.h"
#include "runtime/base/check.h"
#include "runtime/base/codec.h"

namespace vkv {
namespace {

constexpr int kTileTokens = 64;  // a KV head's tile of 256 channels is 64 KiB: second-level cache

// Keys of one KV head and token tile, minus the mean, channel by channel so that the inner loop
// below runs along tokens: [head_dim, kTileTokens].
void load_keys(const SaliencyItem& item, int kv_head, int token_begin, int token_count,
               float* keys) {
  const int head_dim = item.shape.head_dim;
  const float* mean =
      item.k_mean == nullptr ? nullptr : item.k_mean + static_cast<size_t>(kv_head) * head_dim;
  for (int t = 0; t < token_count; ++t) {
    const size_t row = static_cast<size_t>(token_begin + t) * item.shape.kv_heads + kv_head;
    const uint16_t* k = item.open.k + row * head_dim;
    for (int c = 0; c < head_dim; ++c)
      keys[c * kTileTokens + t] =
          float_from_16_bit(item.open.codec, k[c]) - (mean == nullptr ? 0.0f : mean[c]);
  }
}

// Adds the softmax weight that one query head gives to each token of the tile.
void add_weights(const SaliencyItem& item, int query, int q_head, const float* keys,
                 int token_begin, int token_count, float* weights) {
  const int hidden = item.causal ? item.q_len - query - 1 : 0;  // tokens after the query's own
  token_count = std::min(token_count, item.open.token_count - hidden - token_begin);
  if (token_count <= 0) return;

  const int head_dim = item.shape.head_dim;
  const size_t row = static_cast<size_t>(query) * item.shape.q_heads + q_head;
  const float* q = item.q + row * head_dim;
  float scores[kTileTokens] = {};
  for (int c = 0; c < head_dim; ++c)
    for (int t = 0; t < kTileTokens; ++t) scores[t] += q[c] * keys[c * kTileTokens + t];
  for (int t = 0; t < token_count; ++t)
    weights[t] += std::exp(item.scale * scores[t] - item.lse[row]);
}

// Mean of V: [kv_heads, head_dim].
std::vector<float> mean_value(const SaliencyItem& item) {
  const size_t width = static_cast<size_t>(item.shape.kv_heads) * item.shape.head_dim;
  if (item.v_mean != nullptr) return {item.v_mean, item.v_mean + width};
  std::vector<double> sum(width);
  for (int t = 0; t < item.open.token_count; ++t)
    for (size_t c = 0; c < width; ++c)
      sum[c] += float_from_16_bit(item.open.codec, item.open.v[t * width + c]);
  std::vector<float> mean(width);
  for (size_t c = 0; c < width; ++c) mean[c] = static_cast<float>(sum[c] / item.open.token_count);
  return mean;
}

float distance_from(const std::vector<float>& mean, const OpenTokens& open, int token) {
  const uint16_t* v = open.v + static_cast<size_t>(token) * mean.size();
  double sum = 0;
  for (size_t c = 0; c < mean.size(); ++c) {
    const double difference = double{float_from_16_bit(open.codec, v[c])} - double{mean[c]};
    sum += difference * difference;
  }
  return static_cast<float>(std::sqrt(sum));
}

}  // namespace

Status token_saliency(const SaliencyItem& item) {
  VKV_TRY(check_saliency(item));
  const std::vector<float> mean = mean_value(item);
  const int tile_count = (item.open.token_count + kTileTokens - 1) / kTileTokens;
  // Measured on one Zen 4 core: some 0.15 ns a product.
  const double work_ns = 0.15 * item.open.token_count * item.q_len *
                         (double{1} * item.shape.q_heads * item.shape.head_dim);
  parallel_tasks(static_cast<size_t>(tile_count), work_ns, [&](size_t tile) {
    const int token_begin = static_cast<int>(tile) * kTileTokens;
    const int token_count = std::min(kTileTokens, item.open.token_count - token_begin);
    std::vector<float> keys(static_cast<size_t>(item.shape.head_dim) * kTileTokens);
    float weights[kTileTokens] = {};
    for (int kv_head = 0; kv_head < item.shape.kv_heads; ++kv_head) {
      load_keys(item, kv_head, token_begin, token_count, keys.data());
      for (int query = 0; query < item.q_len; ++query)
        for (int g = 0; g < item.shape.group(); ++g)
          add_weights(item, query, kv_head * item.shape.group() + g, keys.data(), token_begin,
                      token_count, weights);
    }
    const float row_count = static_cast<float>(item.q_len) * static_cast<float>(item.shape.q_heads);
    for (int t = 0; t < token_count; ++t)
      item.score[token_begin + t] =
          weights[t] / row_count * distance_from(mean, item.open, token_begin + t);
  });
  return {};
}

}  // namespace vkv
