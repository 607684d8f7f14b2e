// recording_cache.h: what a model hands to its cache, kept, so that other caches can be handed the
// same without running the model again.
// SPDX-License-Identifier: Apache-2.0
//
// The first window of a prompt is attended to at 16 bit whatever the policy, so its K, V and
// queries are the same for every configuration: the model runs once, and replay() fills the other
// caches.
#pragma once

#include <vector>

#include "vkv/cache.h"

namespace vkv {

// One window: K and V of its tokens and the newest queries, for each layer.
struct Recording {
  struct Layer {
    std::vector<float> k, v;    // [tokens, kv_heads, head_dim]
    std::vector<float> q, out;  // [queries, q_heads, head_dim]
    int query_count = 0;
  };
  std::vector<Role> roles;  // [tokens]
  std::vector<Layer> layers;
};

// Hands all calls on, and records those of one window at a time. Not thread-safe.
class RecordingCache final : public Cache {
 public:
  explicit RecordingCache(std::unique_ptr<Cache> cache) : cache_(std::move(cache)) {}

  // From now on; of each attend the newest `queries_max` queries. The last call's q and out count.
  void start(int queries_max) {
    recording_ = {.layers =
                      std::vector<Recording::Layer>(static_cast<size_t>(options().shape.layers))};
    queries_max_ = queries_max;
  }
  Recording take() {
    queries_max_ = 0;
    return std::move(recording_);
  }

  Result<SequenceId> create_sequence() override { return cache_->create_sequence(); }
  Result<SequenceId> fork(SequenceId parent) override { return cache_->fork(parent); }
  Status erase(SequenceId sequence) override { return cache_->erase(sequence); }
  Status truncate(SequenceId sequence, int dropped) override {
    return cache_->truncate(sequence, dropped);
  }
  Status append(int layer, std::span<const AppendRequest> requests) override;
  Status attend(int layer, std::span<const AttendRequest> requests) override;
  Result<SequenceStats> sequence_stats(SequenceId sequence) const override {
    return cache_->sequence_stats(sequence);
  }
  CacheStats stats() const override { return cache_->stats(); }
  const CacheOptions& options() const override { return cache_->options(); }
  std::string engine() const override { return cache_->engine(); }
  std::string io_engine() const override { return cache_->io_engine(); }

 private:
  void record(int layer, const AppendRequest& request);

  std::unique_ptr<Cache> cache_;
  Recording recording_;
  int queries_max_ = 0;  // 0: not recording
};

// Appends the window to the sequence and attends with its queries. With `outs`, what came out:
// [layers][queries, q_heads, head_dim]. Errors: those of the cache.
Status replay(const Recording& recording, Cache& cache, SequenceId sequence, bool ends_window,
              std::vector<std::vector<float>>* outs = nullptr);

}  // namespace vkv
