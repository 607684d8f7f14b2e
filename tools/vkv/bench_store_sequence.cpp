// bench_store_sequence.cpp: a sequence of Qwen2.5-VL-7B's shape through a cache that keeps it.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdint>
#include <functional>
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

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Seconds of `count` steps, after one that warms up.
Result<std::vector<double>> time_steps(Cache& cache, SequenceId sequence, RandomModel& model,
                                       int count) {
  std::vector<double> seconds;
  for (int i = 0; i <= count; ++i) {
    const Stopwatch watch;
    VKV_TRY(model.feed(cache, sequence, 1, Role::kText, false));
    if (i > 0) seconds.push_back(watch.seconds());
  }
  return seconds;
}

Status time_restores(const CacheOptions& options, int count,
                     const std::function<Result<double>()>& read_speed, SequenceOnDisk& times) {
  RandomModel model;
  for (int i = 0; i < count; ++i) {
    VKV_TRY_ASSIGN(speed, read_speed());
    VKV_TRY_ASSIGN(cache, Cache::open(options));
    const Stopwatch restoring;
    VKV_TRY_ASSIGN(sequence, cache->restore(SequenceKey{}));
    times.restores.push_back({restoring.seconds(), static_cast<double>(times.byte_count) / speed});
    if (i + 1 < count) continue;
    VKV_TRY_ASSIGN(seconds, time_steps(*cache, sequence, model, count));
    times.compute_seconds = median(seconds);
  }
  return {};
}

// One step after each look at the disk, and one before that does not count: it reads what the look
// has kept the cache from reading ahead.
Status decode(const CacheOptions& options, int count,
              const std::function<Result<double>()>& read_speed, SequenceOnDisk& times) {
  RandomModel model;
  VKV_TRY_ASSIGN(cache, Cache::open(options));
  VKV_TRY_ASSIGN(sequence, cache->restore(SequenceKey{}));
  const CacheStats before = cache->stats();
  for (int i = 0; i < count; ++i) {
    VKV_TRY_ASSIGN(speed, read_speed());
    VKV_TRY_ASSIGN(seconds, time_steps(*cache, sequence, model, 1));
    times.steps.push_back({seconds.front(), speed});
  }
  const CacheStats after = cache->stats();
  const auto steps = static_cast<uint64_t>(2 * count);
  times.step_bytes = (after.nvme_read_bytes - before.nvme_read_bytes) / steps;
  times.step_wait_seconds =
      (after.nvme_wait_seconds - before.nvme_wait_seconds) / static_cast<double>(steps);
  for (AgainstDisk& step : times.steps)
    step.floor_seconds = static_cast<double>(times.step_bytes) / step.floor_seconds;
  return {};
}

}  // namespace

Result<SequenceOnDisk> time_sequence(const BenchStoreArguments& arguments, const std::string& path,
                                     const std::function<Result<double>()>& read_speed) {
  SequenceOnDisk times;
  RandomModel model;
  VKV_TRY_ASSIGN(options, options_for(arguments, path));
  {
    VKV_TRY_ASSIGN(cache, Cache::open(options));
    VKV_TRY_ASSIGN(sequence, cache->create_sequence());
    for (int done = 0; done < arguments.tokens; done += kWindowTokens)
      VKV_TRY(model.feed(*cache, sequence, std::min(kWindowTokens, arguments.tokens - done),
                         Role::kVisual, true));
    const Stopwatch saving;
    VKV_TRY(cache->save(sequence, SequenceKey{}));
    times.save_seconds = saving.seconds();
    VKV_TRY_ASSIGN(saved, cache->saved());
    times.byte_count = saved.front().byte_count;
  }
  VKV_TRY(time_restores(options, arguments.pairs, read_speed, times));
  options.dram_block_bytes_max = 0;
  VKV_TRY(decode(options, arguments.pairs, read_speed, times));
  return times;
}

}  // namespace vkv
