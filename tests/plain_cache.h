// plain_cache.h: a cache that keeps K and V as given, in fp32: shows what a model computes when
// storage costs nothing.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vkv/cache.h"

namespace vkv {

// Attention in double precision. For tests of models: no budgets, no stats of bytes.
class PlainCache : public Cache {
 public:
  explicit PlainCache(const KvShape& shape) { options_.shape = shape; }

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

  Status append(int layer, const AppendRequest& request) override {
    Layer& target = sequences_.at(request.sequence)[static_cast<size_t>(layer)];
    const size_t values = static_cast<size_t>(request.token_count) * kv_width();
    const auto* const k = static_cast<const float*>(request.k);
    const auto* const v = static_cast<const float*>(request.v);
    target.k.insert(target.k.end(), k, k + values);
    target.v.insert(target.v.end(), v, v + values);
    return {};
  }

  Status attend(int layer, std::span<const AttendRequest> requests) override {
    for (const AttendRequest& request : requests) {
      const Layer& source = sequences_.at(request.sequence)[static_cast<size_t>(layer)];
      const size_t token_count = source.k.size() / kv_width();
      const auto q_len = static_cast<size_t>(request.q_len);
      for (size_t i = 0; i < q_len; ++i)
        for (int head = 0; head < options_.shape.q_heads; ++head)
          attend_one(source, request, i, head, token_count - q_len + i + 1);
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

  size_t kv_width() const {
    return static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim);
  }

  void attend_one(const Layer& source, const AttendRequest& request, size_t query, int head,
                  size_t visible) const {
    const auto dim = static_cast<size_t>(options_.shape.head_dim);
    const size_t row =
        (query * static_cast<size_t>(options_.shape.q_heads) + static_cast<size_t>(head)) * dim;
    const auto kv_offset = static_cast<size_t>(head / options_.shape.group()) * dim;
    const float* const q = static_cast<const float*>(request.q) + row;
    float* const out = static_cast<float*>(request.out) + row;

    std::vector<double> weight(visible);
    double greatest = -INFINITY, sum = 0;
    for (size_t token = 0; token < visible; ++token) {
      const float* const k = source.k.data() + token * kv_width() + kv_offset;
      double dot = 0;
      for (size_t i = 0; i < dim; ++i) dot += double{q[i]} * double{k[i]};
      weight[token] = dot / std::sqrt(static_cast<double>(dim));
      greatest = std::max(greatest, weight[token]);
    }
    for (double& value : weight) sum += value = std::exp(value - greatest);
    std::vector<double> result(dim);
    for (size_t token = 0; token < visible; ++token) {
      const float* const v = source.v.data() + token * kv_width() + kv_offset;
      for (size_t i = 0; i < dim; ++i) result[i] += weight[token] / sum * double{v[i]};
    }
    for (size_t i = 0; i < dim; ++i) out[i] = static_cast<float>(result[i]);
  }

  CacheOptions options_;
  uint64_t last_id_ = 0;
  std::map<SequenceId, std::vector<Layer>> sequences_;
};

}  // namespace vkv
