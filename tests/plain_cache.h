// plain_cache.h: a cache that keeps K and V in fp32, as given or rounded to fp16: shows what a
// model computes when storage costs nothing, or fp16's rounding and nothing else.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/codec.h"
#include "vkv/cache.h"

namespace vkv {

// For tests of models: no budgets, no stats of bytes.
class PlainCache : public Cache {
 public:
  enum class Values { kAsGiven, kRoundedToHalf };

  PlainCache(const KvShape& shape, Values values) : values_(values) { options_.shape = shape; }

  Result<SequenceId> create_sequence() override {
    const SequenceId id{++last_id_};
    sequences_[id].resize(static_cast<size_t>(options_.shape.layers));
    return id;
  }
  Result<SequenceId> fork(SequenceId parent) override {
    const SequenceId id{++last_id_};
    sequences_[id] = sequences_.at(parent);
    return id;
  }
  Status erase(SequenceId sequence) override {
    sequences_.erase(sequence);
    return {};
  }
  Status truncate(SequenceId, int) override { return {Code::kUnsupported, "truncate"}; }

  Status append(int layer, std::span<const AppendRequest> requests) override {
    for (const AppendRequest& request : requests) append_one(layer, request);
    return {};
  }

  void append_one(int layer, const AppendRequest& request) {
    Layer& target = sequences_.at(request.sequence)[static_cast<size_t>(layer)];
    const size_t values = static_cast<size_t>(request.token_count) * kv_width();
    const auto* const k = static_cast<const float*>(request.k);
    const auto* const v = static_cast<const float*>(request.v);
    for (size_t i = 0; i < values; ++i) {
      target.k.push_back(stored(k[i]));
      target.v.push_back(stored(v[i]));
    }
  }

  Status attend(int layer, std::span<const AttendRequest> requests) override {
    for (const AttendRequest& request : requests) {
      const Layer& source = sequences_.at(request.sequence)[static_cast<size_t>(layer)];
      for (int head = 0; head < options_.shape.q_heads; ++head) attend_head(source, request, head);
    }
    return {};
  }

  Result<SequenceStats> sequence_stats(SequenceId) const override { return SequenceStats{}; }
  CacheStats stats() const override { return {.sequence_count = sequences_.size()}; }
  const CacheOptions& options() const override { return options_; }
  std::string engine() const override { return "plain"; }
  std::string io_engine() const override { return "none"; }

 private:
  struct Layer {
    std::vector<float> k, v;  // [tokens, kv_heads, head_dim]
  };

  float stored(float value) const {
    return values_ == Values::kAsGiven ? value : float_from_half(half_from_float(value));
  }

  size_t kv_width() const {
    return static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim);
  }

  void attend_head(const Layer& source, const AttendRequest& request, int head) const {
    const int64_t dim = options_.shape.head_dim, q_row = options_.shape.q_heads * dim;
    const auto kv_row = static_cast<int64_t>(kv_width());
    const int64_t tokens = static_cast<int64_t>(source.k.size()) / kv_row, q_len = request.q_len;
    const float* const q = static_cast<const float*>(request.q) + head * dim;
    float* const out = static_cast<float*>(request.out) + head * dim;
    const int64_t kv_offset = head / options_.shape.group() * dim;

    std::vector<float> weight(static_cast<size_t>(q_len * tokens));
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    VKV_CHECK(dnnl_sgemm('N', 'T', q_len, tokens, dim, scale, q, q_row, source.k.data() + kv_offset,
                         kv_row, 0.0f, weight.data(), tokens) == dnnl_success);
    for (int64_t i = 0; i < q_len; ++i) {
      const auto row =
          std::span(weight).subspan(static_cast<size_t>(i * tokens), static_cast<size_t>(tokens));
      const auto visible = row.first(static_cast<size_t>(tokens - q_len + i + 1));
      const float greatest = *std::max_element(visible.begin(), visible.end());
      double sum = 0;
      for (float& value : visible) sum += value = std::exp(value - greatest);
      for (float& value : visible) value = static_cast<float>(value / sum);
      std::fill(row.begin() + static_cast<int64_t>(visible.size()), row.end(), 0.0f);
    }
    VKV_CHECK(dnnl_sgemm('N', 'N', q_len, dim, tokens, 1.0f, weight.data(), tokens,
                         source.v.data() + kv_offset, kv_row, 0.0f, out, q_row) == dnnl_success);
  }

  const Values values_;
  CacheOptions options_;
  uint64_t last_id_ = 0;
  std::map<SequenceId, std::vector<Layer>> sequences_;
};

}  // namespace vkv
