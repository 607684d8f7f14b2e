// plain_cuda_cache.h: a cache that keeps K and V on the GPU as they are given: shows what a model
// on the GPU computes when storage costs nothing.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda_handles.h"
#include "vkv/cache.h"

namespace vkv {

// Causal attention of the newest q_len of token_count tokens, in fp32. Device pointers.
struct PlainAttention {
  const void* q = nullptr;                // [q_len, q_heads, head_dim], element
  const void *k = nullptr, *v = nullptr;  // [token_count, kv_heads, head_dim], element
  void* out = nullptr;                    // [q_len, q_heads, head_dim], element
  int q_len = 0;
  int token_count = 0;
  KvShape shape;
  ElementType element = ElementType::kF32;  // or kBf16
};
Status launch_plain_attention(const PlainAttention& attention, cudaStream_t stream);

// For tests of models: no budgets, no stats of bytes. Pointers of requests are device pointers.
class PlainCudaCache : public Cache {
 public:
  static constexpr int kTokensMax = 4096;  // of a sequence

  PlainCudaCache(const KvShape& shape, ElementType element, void* stream)
      : stream_(static_cast<cudaStream_t>(stream)) {
    options_.shape = shape;
    options_.element = element;
  }

  Result<SequenceId> create_sequence() override {
    const SequenceId id{++last_id_};
    for (int layer = 0; layer < options_.shape.layers; ++layer) {
      VKV_TRY_ASSIGN(k, CudaArray<std::byte>::make(kTokensMax * token_bytes()));
      VKV_TRY_ASSIGN(v, CudaArray<std::byte>::make(kTokensMax * token_bytes()));
      sequences_[id].push_back({std::move(k), std::move(v), 0});
    }
    return id;
  }
  Result<SequenceId> fork(SequenceId parent) override {
    VKV_TRY_ASSIGN(id, create_sequence());
    for (size_t layer = 0; layer < sequences_.at(parent).size(); ++layer) {
      const Layer& source = sequences_.at(parent)[layer];
      VKV_TRY(
          store(sequences_.at(id)[layer], source.k.data(), source.v.data(), source.token_count));
    }
    return id;
  }
  Status erase(SequenceId sequence) override {
    sequences_.erase(sequence);
    return {};
  }
  Status truncate(SequenceId, int) override { return {Code::kUnsupported, "truncate"}; }

  Status append(int layer, std::span<const AppendRequest> requests) override {
    for (const AppendRequest& request : requests) {
      Layer& target = sequences_.at(request.sequence)[static_cast<size_t>(layer)];
      VKV_TRY(store(target, request.k, request.v, request.token_count));
    }
    return {};
  }

  Status attend(int layer, std::span<const AttendRequest> requests) override {
    for (const AttendRequest& request : requests) {
      const Layer& source = sequences_.at(request.sequence)[static_cast<size_t>(layer)];
      VKV_TRY(launch_plain_attention({.q = request.q,
                                      .k = source.k.data(),
                                      .v = source.v.data(),
                                      .out = request.out,
                                      .q_len = request.q_len,
                                      .token_count = source.token_count,
                                      .shape = options_.shape,
                                      .element = options_.element},
                                     stream_));
    }
    return {};
  }

  Result<SequenceStats> sequence_stats(SequenceId) const override { return SequenceStats{}; }
  CacheStats stats() const override { return {.sequence_count = sequences_.size()}; }
  const CacheOptions& options() const override { return options_; }
  std::string engine() const override { return "plain-cuda"; }
  std::string io_engine() const override { return "none"; }

 private:
  struct Layer {
    CudaArray<std::byte> k, v;  // [kTokensMax, kv_heads, head_dim]
    int token_count = 0;
  };

  size_t token_bytes() const {
    return static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim) *
           bytes_of(options_.element);
  }

  Status store(Layer& target, const void* k, const void* v, int token_count) {
    if (target.token_count + token_count > kTokensMax) return {Code::kOutOfMemory, "plain cache"};
    const size_t bytes = static_cast<size_t>(token_count) * token_bytes();
    const size_t offset = static_cast<size_t>(target.token_count) * token_bytes();
    target.token_count += token_count;
    VKV_TRY(copy_async(target.k.data() + offset, static_cast<const std::byte*>(k), bytes, stream_));
    return copy_async(target.v.data() + offset, static_cast<const std::byte*>(v), bytes, stream_);
  }

  cudaStream_t stream_;
  CacheOptions options_;
  uint64_t last_id_ = 0;
  std::map<SequenceId, std::vector<Layer>> sequences_;
};

}  // namespace vkv
