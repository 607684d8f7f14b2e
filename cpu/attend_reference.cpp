// attend_reference.cpp: decode all, score all, softmax, sum.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/attend_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/decode.h"
#include "cpu/parallel.h"
#include "runtime/base/check.h"
#include "runtime/base/codec.h"

namespace vkv {
namespace {

// All keys and values of one KV head: sealed tokens first, then the open ones.
struct HeadTokens {
  size_t sealed_count = 0;
  std::vector<double> k;  // [tokens, head_dim], minus the mean
  std::vector<double> v;  // [tokens, head_dim]
};

HeadTokens load_head(const AttendItem& item, int kv_head) {
  const size_t head_dim = static_cast<size_t>(item.shape.head_dim);
  const float* mean = item.k_mean == nullptr ? nullptr : item.k_mean + kv_head * head_dim;
  HeadTokens tokens;
  const auto add = [&](const float* k, const float* v, bool subtract_mean) {
    for (size_t c = 0; c < head_dim; ++c) {
      tokens.k.push_back(double{k[c]} - (subtract_mean ? double{mean[c]} : 0.0));
      tokens.v.push_back(double{v[c]});
    }
  };

  std::vector<float> k, v;
  for (const BlockView& block : item.blocks) {
    k.resize(static_cast<size_t>(block.token_count) * head_dim);
    v.resize(k.size());
    // A centred block holds k - mean: adding the mean only to subtract it would round twice.
    const bool relative = block.centred && !is_16_bit(block.k_codec);
    decode_head(item.shape, block, kv_head, nullptr, k.data(), v.data());
    for (int t = 0; t < block.token_count; ++t) {
      if (block.live != nullptr && (block.live[t / 32] >> t % 32 & 1u) == 0) continue;
      const size_t at = static_cast<size_t>(t) * head_dim;
      add(&k[at], &v[at], mean != nullptr && !relative);
      ++tokens.sealed_count;
    }
  }

  k.resize(head_dim);
  v.resize(head_dim);
  for (size_t t = 0; t < static_cast<size_t>(item.open.token_count); ++t) {
    const size_t at = (t * static_cast<size_t>(item.shape.kv_heads) + kv_head) * head_dim;
    for (size_t c = 0; c < head_dim; ++c) {
      k[c] = float_from_16_bit(item.open.codec, item.open.k[at + c]);
      v[c] = float_from_16_bit(item.open.codec, item.open.v[at + c]);
    }
    add(k.data(), v.data(), mean != nullptr);
  }
  return tokens;
}

void attend_one(const AttendItem& item, const HeadTokens& tokens, int query, int q_head) {
  const size_t head_dim = static_cast<size_t>(item.shape.head_dim);
  const size_t row = static_cast<size_t>(query) * item.shape.q_heads + q_head;
  const float* q = item.q + row * head_dim;
  const size_t open_count = static_cast<size_t>(
      item.causal ? item.open.token_count - item.q_len + query + 1 : item.open.token_count);
  const size_t visible = tokens.sealed_count + open_count;

  std::vector<double> weights(visible);
  double max = -std::numeric_limits<double>::infinity();
  for (size_t t = 0; t < visible; ++t) {
    double score = 0;
    for (size_t c = 0; c < head_dim; ++c) score += double{q[c]} * tokens.k[t * head_dim + c];
    weights[t] = score * double{item.scale};
    max = std::max(max, weights[t]);
  }
  double sum = 0;
  std::vector<double> out(head_dim);
  for (size_t t = 0; t < visible; ++t) {
    const double weight = std::exp(weights[t] - max);
    sum += weight;
    for (size_t c = 0; c < head_dim; ++c) out[c] += weight * tokens.v[t * head_dim + c];
  }
  for (size_t c = 0; c < head_dim; ++c)
    item.out[row * head_dim + c] = visible == 0 ? 0.0f : static_cast<float>(out[c] / sum);
  item.lse[row] = visible == 0 ? -std::numeric_limits<float>::infinity()
                               : static_cast<float>(max + std::log(sum));
}

}  // namespace

Status attend_reference(const AttendItem& item) {
  VKV_TRY(check_attend(item));
  for (int kv_head = 0; kv_head < item.shape.kv_heads; ++kv_head) {
    const HeadTokens tokens = load_head(item, kv_head);
    const int group = item.shape.group();
    const size_t rows = static_cast<size_t>(item.q_len) * group;
    parallel_tasks(rows, 2.0 * static_cast<double>(rows * tokens.k.size()), [&](size_t row) {
      const int query = static_cast<int>(row) / group, member = static_cast<int>(row) % group;
      attend_one(item, tokens, query, kv_head * group + member);
    });
  }
  return {};
}

}  // namespace vkv
