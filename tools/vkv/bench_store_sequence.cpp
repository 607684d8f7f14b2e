// bench_store_sequence.cpp: a sequence of Qwen2.5-VL-7B's shape through a cache that keeps it.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "runtime/base/stopwatch.h"
#include "tools/vkv/bench_store.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

constexpr KvShape kShape{.layers = 28, .q_heads = 28, .kv_heads = 4, .head_dim = 128};
constexpr int kWindowTokens = 2048;

// Random K, V and queries, the same for every layer: what they say does not matter here.
class RandomModel {
 public:
  RandomModel() : k_(values(kShape.kv_heads)), v_(values(kShape.kv_heads)) {
    q_ = values(kShape.q_heads);
    out_.resize(q_.size());
  }

  Status feed(Cache& cache, SequenceId sequence, int token_count, Role role, bool ends_window) {
    const std::vector<Role> roles(static_cast<size_t>(token_count), role);
    // Every token with a query of its own would make prefill the benchmark: the last ones do.
    for (int layer = 0; layer < kShape.layers; ++layer) {
      VKV_TRY(cache.append(layer, {.sequence = sequence,
                                   .token_count = token_count,
                                   .k = k_.data(),
                                   .v = v_.data(),
                                   .roles = roles}));
      const AttendRequest request{.sequence = sequence,
                                  .q_len = std::min(token_count, 64),
                                  .q = q_.data(),
                                  .out = out_.data(),
                                  .ends_window = ends_window};
      VKV_TRY(cache.attend(layer, {&request, 1}));
    }
    return {};
  }

 private:
  static std::vector<float> values(int heads) {
    std::vector<float> all(static_cast<size_t>(kWindowTokens * heads * kShape.head_dim));
    std::minstd_rand random(7);
    for (float& value : all) value = static_cast<float>(random() % 2001) * 1e-3f - 1.0f;
    return all;
  }

  std::vector<float> k_, v_, q_, out_;
};

Result<CacheOptions> options_for(const BenchStoreArguments& arguments, const std::string& path) {
  VKV_TRY_ASSIGN(policy, precision_preset(arguments.preset));
  CacheOptions options{.shape = kShape, .precision = policy};
  options.nvme_bytes_max = uint64_t{16} << 30;
  options.store_path = path;
  options.keep_store = true;
  return options;
}

// Median of a step, after one that warms up.
Result<double> step_seconds(Cache& cache, SequenceId sequence, RandomModel& model, int steps) {
  std::vector<double> seconds;
  for (int i = 0; i <= steps; ++i) {
    const Stopwatch watch;
    VKV_TRY(model.feed(cache, sequence, 1, Role::kText, false));
    if (i > 0) seconds.push_back(watch.seconds());
  }
  std::nth_element(seconds.begin(), seconds.begin() + steps / 2, seconds.end());
  return seconds[static_cast<size_t>(steps / 2)];
}

}  // namespace

Result<SequenceOnDisk> time_sequence(const BenchStoreArguments& arguments,
                                     const std::string& path) {
  SequenceOnDisk times;
  const SequenceKey key{};
  RandomModel model;
  VKV_TRY_ASSIGN(options, options_for(arguments, path));
  {
    VKV_TRY_ASSIGN(cache, Cache::open(options));
    VKV_TRY_ASSIGN(sequence, cache->create_sequence());
    for (int done = 0; done < arguments.tokens; done += kWindowTokens)
      VKV_TRY(model.feed(*cache, sequence, std::min(kWindowTokens, arguments.tokens - done),
                         Role::kVisual, true));
    const Stopwatch saving;
    VKV_TRY(cache->save(sequence, key));
    times.save_seconds = saving.seconds();
    VKV_TRY_ASSIGN(saved, cache->saved());
    times.byte_count = saved.front().byte_count;
  }
  {
    VKV_TRY_ASSIGN(cache, Cache::open(options));
    const Stopwatch restoring;
    VKV_TRY_ASSIGN(sequence, cache->restore(key));
    times.restore_seconds = restoring.seconds();
    VKV_TRY_ASSIGN(seconds, step_seconds(*cache, sequence, model, arguments.steps));
    times.compute_seconds = seconds;
  }
  options.dram_block_bytes_max = 0;
  VKV_TRY_ASSIGN(cache, Cache::open(options));
  VKV_TRY_ASSIGN(sequence, cache->restore(key));
  VKV_TRY(step_seconds(*cache, sequence, model, 1).status());
  const CacheStats before = cache->stats();
  VKV_TRY_ASSIGN(seconds, step_seconds(*cache, sequence, model, arguments.steps));
  const CacheStats after = cache->stats();
  const auto steps = static_cast<uint64_t>(arguments.steps + 1);
  times.step_bytes = (after.nvme_read_bytes - before.nvme_read_bytes) / steps;
  times.step_wait_seconds =
      (after.nvme_wait_seconds - before.nvme_wait_seconds) / static_cast<double>(steps);
  times.step_seconds = seconds;
  return times;
}

}  // namespace vkv
