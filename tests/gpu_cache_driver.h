// gpu_cache_driver.h: caches on the CPU and on a GPU that are fed the same, and what they answer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda_handles.h"
#include "kernels/gpu_devices.h"
#include "runtime/base/codec.h"
#include "tests/cache_driver.h"
#include "vkv/cache.h"

namespace vkv {

inline constexpr KvShape kGpuTestShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 64};

// Whether K and Q have the driver's wide channels, which make scores large and attention sharp.
enum class Values { kWide, kPlain };

// Attention of the GPU takes queries and weights of encoded blocks at two bytes each: 2e-4 of
// max|O| where scores are of usual size, as gpu_attend_test has it; with wide keys, more. Windows
// go through a library where there is one, at fp16: 2e-3, as gpu_prefill_test has it.
inline double ceiling(Values values, const Cache& cache) {
  const bool has_library = cache.engine().find("prefill by cuDNN") != std::string::npos;
  return values == Values::kWide || has_library ? 2e-3 : 2e-4;
}

inline std::vector<float> values_of(const KvShape& shape, int heads, int layer, int first,
                                    int count, uint32_t stream, Values kind) {
  std::vector<float> values = synthetic(shape, heads, layer, first, count, stream);
  if (kind == Values::kPlain)
    for (size_t i = 3; i < values.size(); i += 16) values[i] /= 6;  // head_dim is a multiple of 16
  return values;
}

// What one sequence does in a step of a batch.
struct Turn {
  SequenceId sequence{};
  int first = 0;  // position
  std::vector<Role> roles;
  bool ends_window = false;
  uint32_t seed = 0;
};

inline std::vector<std::byte> to_bytes(const std::vector<float>& values, ElementType element) {
  const size_t width = element == ElementType::kF32 ? 4 : 2;
  std::vector<std::byte> bytes(values.size() * width);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half =
        element == ElementType::kF32 ? uint16_t{0} : float_to_16_bit(codec_of(element), values[i]);
    std::memcpy(&bytes[i * width],
                width == 4 ? static_cast<const void*>(&values[i]) : static_cast<const void*>(&half),
                width);
  }
  return bytes;
}

inline std::vector<float> to_floats(const std::vector<std::byte>& bytes, ElementType element) {
  const size_t width = element == ElementType::kF32 ? 4 : 2;
  std::vector<float> values(bytes.size() / width);
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t half = 0;
    std::memcpy(width == 4 ? static_cast<void*>(&values[i]) : static_cast<void*>(&half),
                &bytes[i * width], width);
    if (width == 2) values[i] = float_from_16_bit(codec_of(element), half);
  }
  return values;
}

// A tensor of a call, where the cache's device has its memory.
class Tensor {
 public:
  Tensor(const Cache& cache, std::vector<std::byte> bytes) : host_(std::move(bytes)) {
    if (cache.options().device == Device::kCpu) return;
    auto made = CudaArray<std::byte>::make(host_.size());
    EXPECT_TRUE(made.ok()) << made.status().message();
    gpu_ = std::move(made.value());
    EXPECT_EQ(cudaMemcpy(gpu_.data(), host_.data(), host_.size(), cudaMemcpyDefault), cudaSuccess);
  }

  std::byte* data() { return gpu_.size() > 0 ? gpu_.data() : host_.data(); }
  const std::vector<std::byte>& read() {
    if (gpu_.size() == 0) return host_;
    EXPECT_EQ(cudaMemcpy(host_.data(), gpu_.data(), host_.size(), cudaMemcpyDefault), cudaSuccess);
    return host_;
  }

 private:
  std::vector<std::byte> host_;
  CudaArray<std::byte> gpu_;
};

// Appends and attends, all sequences in one call a layer. Outputs of all layers and turns.
inline Result<std::vector<float>> step(Cache& cache, const std::vector<Turn>& turns,
                                       Values kind = Values::kWide) {
  const KvShape shape = cache.options().shape;
  const ElementType element = cache.options().element;
  std::vector<float> all;
  for (int layer = 0; layer < shape.layers; ++layer) {
    std::vector<Tensor> tensors, queries, outs;
    std::vector<AppendRequest> appends;
    for (const Turn& turn : turns) {
      const int count = static_cast<int>(turn.roles.size());
      const auto values = [&](int heads, uint32_t which) {
        return to_bytes(values_of(shape, heads, layer, turn.first, count, which + turn.seed, kind),
                        element);
      };
      std::byte* k_and_v[2];
      for (const uint32_t which : {1u, 2u}) {
        tensors.emplace_back(cache, values(shape.kv_heads, which));
        k_and_v[which - 1] = tensors.back().data();
      }
      queries.emplace_back(cache, values(shape.q_heads, 3));
      outs.emplace_back(cache,
                        std::vector<std::byte>(values(shape.q_heads, 3).size(), std::byte{0xff}));
      appends.push_back({.sequence = turn.sequence,
                         .token_count = count,
                         .k = k_and_v[0],
                         .v = k_and_v[1],
                         .roles = turn.roles});
    }
    VKV_TRY(cache.append(layer, appends));
    std::vector<AttendRequest> requests;
    for (size_t i = 0; i < turns.size(); ++i)
      requests.push_back({.sequence = turns[i].sequence,
                          .q_len = static_cast<int>(turns[i].roles.size()),
                          .q = queries[i].data(),
                          .out = outs[i].data(),
                          .ends_window = turns[i].ends_window});
    VKV_TRY(cache.attend(layer, requests));
    for (Tensor& out : outs) {
      const std::vector<float> values = to_floats(out.read(), element);
      all.insert(all.end(), values.begin(), values.end());
    }
  }
  return all;
}

inline std::vector<float> must_step(Cache& cache, const std::vector<Turn>& turns,
                                    Values kind = Values::kWide) {
  Result<std::vector<float>> out = step(cache, turns, kind);
  EXPECT_TRUE(out.ok()) << out.status().message();
  return out.ok() ? std::move(out.value()) : std::vector<float>();
}

// Windows, a fork, drafts and batches; the outputs of every step. All sequences live on.
struct Played {
  std::vector<std::vector<float>> outs;
  std::vector<SequenceStats> stats;
};

inline Played play(Cache& cache, Values kind = Values::kWide) {
  Played played;
  const auto take = [&](const std::vector<Turn>& turns) {
    played.outs.push_back(must_step(cache, turns, kind));
  };
  const SequenceId a = must_create(cache), b = must_create(cache);
  take({{a, 0, picture_prompt(4, 700, 40), true, 0}, {b, 0, picture_prompt(1, 320, 0), false, 10}});
  take({{a, 744, picture_prompt(0, 0, 1), false, 0},
        {b, 321, picture_prompt(0, 290, 20), true, 10}});
  const SequenceId c = cache.fork(a).value();
  take({{c, 745, picture_prompt(0, 0, 5), false, 40}});
  EXPECT_TRUE(cache.truncate(c, 3).ok());
  take({{a, 745, picture_prompt(0, 0, 1), false, 0},
        {b, 631, picture_prompt(0, 0, 1), false, 10},
        {c, 747, picture_prompt(0, 0, 4), false, 50}});
  take({{a, 746, picture_prompt(0, 600, 17), true, 0},
        {b, 632, picture_prompt(0, 0, 300), false, 10}});
  for (int i = 0; i < 3; ++i)
    take({{a, 1363 + i, picture_prompt(0, 0, 1), false, 0},
          {b, 932 + i, picture_prompt(0, 0, 1), false, 10},
          {c, 751 + i, picture_prompt(0, 0, 1), false, 50}});
  for (const SequenceId sequence : {a, b, c})
    played.stats.push_back(cache.sequence_stats(sequence).value());
  return played;
}

// Largest difference over the largest expected value.
inline double difference(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return INFINITY;
  double worst = 0, largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::isnan(got[i]) ? INFINITY : std::fabs(double{got[i]} - want[i]));
    largest = std::max(largest, std::fabs(double{want[i]}));
  }
  return worst / largest;
}

inline void expect_same_stats(const SequenceStats& got, const SequenceStats& want) {
  EXPECT_EQ(got.token_count, want.token_count);
  EXPECT_EQ(got.open_token_count, want.open_token_count);
  for (size_t role = 0; role < kRoleCount; ++role) {
    EXPECT_EQ(got.role[role].stored_bits, want.role[role].stored_bits) << role;
    EXPECT_EQ(got.role[role].sealed_value_count, want.role[role].sealed_value_count) << role;
    EXPECT_EQ(got.role[role].high_value_count, want.role[role].high_value_count) << role;
  }
  ASSERT_EQ(got.forms.size(), want.forms.size());
  for (size_t i = 0; i < got.forms.size(); ++i) {
    EXPECT_EQ(got.forms[i].form, want.forms[i].form);
    EXPECT_EQ(got.forms[i].token_count, want.forms[i].token_count);
    EXPECT_EQ(got.forms[i].byte_count, want.forms[i].byte_count);
  }
}

class GpuCache : public testing::Test {
 protected:
  void SetUp() override {
    const auto devices = list_gpu_devices();
    if (!devices.ok()) GTEST_SKIP() << devices.status().message();
    if (devices.value().empty()) GTEST_SKIP() << "there is no GPU";
    // The CPU's plain engine computes in double precision: the fast one is as far from it as the
    // GPU is, in another direction.
    setenv("VKV_CPU", "reference", /*overwrite=*/0);
  }

  static CacheOptions on_cpu(std::string_view preset, KvShape shape = kGpuTestShape) {
    return {.shape = shape,
            .precision = precision_preset(preset).value(),
            .recent_tokens = 32,
            .dram_bytes_max = uint64_t{256} << 20,
            .extent_bytes_max = 64 << 10};
  }
  static CacheOptions on_gpu(CacheOptions options) {
    options.device = Device::kCuda;
    options.hbm_bytes_max = uint64_t{512} << 20;
    return options;
  }
  // With next to no block in HBM: room for the open tokens of three sequences, and a call.
  static std::unique_ptr<Cache> crowded(CacheOptions options) {
    options.hbm_bytes_max = least_hbm(options) + (uint64_t{4} << 20);
    auto cache = must_open(options);
    if (cache == nullptr) return cache;
    const SequenceId other = must_create(*cache);  // pushes out what is compared
    for (int window = 0; cache->stats().demoted_bytes == 0 && window < 80; ++window)
      must_step(*cache, {{other, 1000 * window, picture_prompt(0, 1000, 0), true, 60}});
    EXPECT_GT(cache->stats().demoted_bytes, 0u);
    return cache;
  }
  static uint64_t least_hbm(CacheOptions options) {
    options.hbm_bytes_max = 1;
    const std::string message = Cache::open(options).status().message();
    EXPECT_NE(message.find("hbm"), std::string::npos) << message;
    return std::stoull(message.substr(message.find("at least ") + 9));
  }

  // The same on both; prints the largest difference of a step, which must be below the ceiling.
  static void compare(const CacheOptions& options, Values kind, const std::string& what,
                      double rounding = 0) {
    auto cpu = must_open(options), gpu = must_open(on_gpu(options));
    ASSERT_TRUE(cpu != nullptr && gpu != nullptr);
    const Played want = play(*cpu, kind), got = play(*gpu, kind);
    double worst = 0;
    for (size_t i = 0; i < want.outs.size(); ++i)
      worst = std::max(worst, difference(got.outs[i], want.outs[i]));
    for (size_t i = 0; i < want.stats.size(); ++i) expect_same_stats(got.stats[i], want.stats[i]);
    EXPECT_EQ(gpu->stats().sealed_token_count, cpu->stats().sealed_token_count);
    EXPECT_GT(gpu->stats().tier[0].extent_count, 0u);
    for (const TierStats& tier : gpu->stats().tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
    std::cout << what << (kind == Values::kWide ? ", wide: " : ": ") << worst << "\n";
    EXPECT_LT(worst, ceiling(kind, *gpu) + rounding) << what;
  }
};

}  // namespace vkv
