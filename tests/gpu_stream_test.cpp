// On a caller's stream a cache on a GPU waits for nothing: values that will not do are found late,
// and never served; sealing beside the steps changes no bit; no call takes device memory.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda_handles.h"
#include "kernels/gpu_devices.h"
#include "tests/cache_driver.h"
#include "tests/gpu_arrays.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

constexpr KvShape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 64};

class GpuStream : public testing::Test {
 protected:
  void SetUp() override {
    const auto devices = list_gpu_devices();
    if (!devices.ok()) GTEST_SKIP() << devices.status().message();
    if (devices.value().empty()) GTEST_SKIP() << "there is no GPU";
    auto made = make_stream();
    ASSERT_TRUE(made.ok()) << made.status().message();
    stream_ = std::move(made.value());
  }

  CacheOptions options(std::string_view preset) const {
    return {.shape = kShape,
            .device = Device::kCuda,
            .stream = stream_.get(),
            .precision = precision_preset(preset).value(),
            .recent_tokens = 32,
            .hbm_bytes_max = uint64_t{256} << 20,
            .dram_bytes_max = uint64_t{64} << 20};
  }

  // Device tensors of one call, kept until the end: nobody waits for the kernels that read them.
  CudaArray<float>& tensor(std::vector<float> values) {
    tensors_.push_back(to_gpu(values));
    return tensors_.back();
  }

  Status append(Cache& cache, SequenceId sequence, int layer, int first,
                const std::vector<Role>& roles, std::vector<float> k, std::vector<float> v) {
    (void)first;
    return cache.append(layer, {.sequence = sequence,
                                .token_count = static_cast<int>(roles.size()),
                                .k = tensor(std::move(k)).data(),
                                .v = tensor(std::move(v)).data(),
                                .roles = roles});
  }
  Status append(Cache& cache, SequenceId sequence, int layer, int first,
                const std::vector<Role>& roles) {
    const int count = static_cast<int>(roles.size());
    return append(cache, sequence, layer, first, roles,
                  synthetic(kShape, kShape.kv_heads, layer, first, count, 1),
                  synthetic(kShape, kShape.kv_heads, layer, first, count, 2));
  }
  // Where the output will be is put into `out`.
  Status attend(Cache& cache, SequenceId sequence, int layer, int first, int count,
                bool ends_window, size_t* out = nullptr) {
    const auto q = synthetic(kShape, kShape.q_heads, layer, first, count, 3);
    float* const device_q = tensor(q).data();
    float* const device_out = tensor(std::vector<float>(q.size(), NAN)).data();
    if (out != nullptr) *out = tensors_.size() - 1;
    const AttendRequest request = {.sequence = sequence,
                                   .q_len = count,
                                   .q = device_q,
                                   .out = device_out,
                                   .ends_window = ends_window};
    return cache.attend(layer, {&request, 1});
  }
  // All layers; which tensors the outputs are.
  std::vector<size_t> must_step(Cache& cache, SequenceId sequence, int first,
                                const std::vector<Role>& roles, bool ends_window) {
    std::vector<size_t> outs;
    for (int layer = 0; layer < kShape.layers; ++layer) {
      Status status = append(cache, sequence, layer, first, roles);
      EXPECT_TRUE(status.ok()) << status.message();
      status = attend(cache, sequence, layer, first, static_cast<int>(roles.size()), ends_window,
                      &outs.emplace_back());
      EXPECT_TRUE(status.ok()) << status.message();
    }
    return outs;
  }

  // A prompt, decode steps that seal several blocks, a fork, another window. All outputs.
  std::vector<std::vector<float>> play(Cache& cache) {
    std::vector<size_t> outs;
    const auto add = [&](const std::vector<size_t>& more) {
      outs.insert(outs.end(), more.begin(), more.end());
    };
    const SequenceId a = must_create(cache);
    add(must_step(cache, a, 0, picture_prompt(4, 700, 40), true));
    for (int i = 0; i < 420; ++i) add(must_step(cache, a, 744 + i, picture_prompt(0, 0, 1), false));
    auto forked = cache.fork(a);
    EXPECT_TRUE(forked.ok()) << forked.status().message();
    add(must_step(cache, forked.value(), 1164, picture_prompt(0, 600, 3), true));
    for (int i = 0; i < 300; ++i) {
      add(must_step(cache, a, 1164 + i, picture_prompt(0, 0, 1), false));
      add(must_step(cache, forked.value(), 1767 + i, picture_prompt(0, 0, 1), false));
    }
    EXPECT_TRUE(cache.erase(forked.value()).ok());
    const Status settled = cache.settle();
    EXPECT_TRUE(settled.ok()) << settled.message();
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::vector<std::vector<float>> values;
    for (const size_t out : outs) values.push_back(from_gpu(tensors_[out]));
    tensors_.clear();
    return values;
  }

  CudaStream stream_;
  std::vector<CudaArray<float>> tensors_;
};

TEST_F(GpuStream, sealing_beside_many_steps_gives_the_bits_of_one_stream) {
  for (const std::string_view preset : {"exact", "balanced", "visual1", "onebit"}) {
    const CacheOptions beside = options(preset);
    CacheOptions alone = beside;
    alone.stream = nullptr;
    auto one = must_open(alone), two = must_open(beside);
    ASSERT_TRUE(one != nullptr && two != nullptr);
    const auto want = play(*one), got = play(*two);
    ASSERT_EQ(got.size(), want.size());
    size_t differing = 0;
    for (size_t i = 0; i < want.size(); ++i)
      differing +=
          std::memcmp(got[i].data(), want[i].data(), want[i].size() * sizeof(float)) != 0 ? 1 : 0;
    EXPECT_EQ(differing, 0u) << preset << " of " << want.size();
    EXPECT_EQ(two->stats().sealed_token_count, one->stats().sealed_token_count);
    EXPECT_GT(two->stats().sealed_token_count, 0u);
  }
}

TEST_F(GpuStream, no_call_takes_device_memory) {
  const auto free_bytes = [] {
    size_t free = 0, total = 0;
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    return free;
  };
  for (const std::string_view preset : {"balanced", "visual1", "onebit"}) {
    auto warm = must_open(options(preset));
    play(*warm);  // CUDA loads kernels when they are first used
    warm.reset();
    auto cache = must_open(options(preset));
    const size_t before = free_bytes();
    play(*cache);
    EXPECT_EQ(free_bytes(), before) << preset;
  }
}

TEST_F(GpuStream, a_bad_value_is_named_before_results_count_and_never_served) {
  auto cache = must_open(options("balanced"));
  const SequenceId good = must_create(*cache), bad = must_create(*cache);
  const auto roles = picture_prompt(0, 9, 0);
  std::vector<float> v = synthetic(kShape, kShape.kv_heads, 1, 20, 9, 2);
  v[5 * 128 + 70] = -INFINITY;
  v[7 * 128 + 3] = NAN;
  for (const SequenceId sequence : {good, bad})
    must_step(*cache, sequence, 0, picture_prompt(0, 20, 0), false);
  ASSERT_TRUE(append(*cache, bad, 0, 20, roles).ok());
  ASSERT_TRUE(attend(*cache, bad, 0, 20, 9, false).ok());
  ASSERT_TRUE(append(*cache, bad, 1, 20, roles, synthetic(kShape, 2, 1, 20, 9, 1), v).ok());

  const Status settled = cache->settle();
  EXPECT_EQ(settled.code(), Code::kInvalidArgument);
  EXPECT_NE(settled.message().find(
                "sequence 2, layer 1: v of token 25, KV head 1, channel 6 is -inf; it must be "
                "finite in f16"),
            std::string::npos)
      << settled.message();
  EXPECT_TRUE(cache->settle().ok());  // said once

  EXPECT_EQ(attend(*cache, bad, 1, 20, 9, false).message(), settled.message());
  EXPECT_EQ(append(*cache, bad, 0, 29, roles).message(), settled.message());
  EXPECT_EQ(cache->fork(bad).status().message(), settled.message());
  EXPECT_EQ(cache->truncate(bad, 1).message(), settled.message());

  // The other sequence, and one made since, are what they are alone.
  EXPECT_TRUE(cache->erase(bad).ok());
  const SequenceId fresh = must_create(*cache);
  must_step(*cache, fresh, 0, picture_prompt(0, 20, 0), false);
  const auto outs = must_step(*cache, good, 20, roles, true);
  const auto same = must_step(*cache, fresh, 20, roles, true);
  EXPECT_TRUE(cache->settle().ok());
  for (size_t i = 0; i < outs.size(); ++i) {
    const auto values = from_gpu(tensors_[outs[i]]), again = from_gpu(tensors_[same[i]]);
    EXPECT_EQ(std::memcmp(values.data(), again.data(), values.size() * sizeof(float)), 0);
    EXPECT_TRUE(std::all_of(values.begin(), values.end(),
                            [](float value) { return std::isfinite(value); }));
  }
}

TEST_F(GpuStream, a_call_with_the_sequence_says_it_too_and_every_sequence_is_told) {
  auto cache = must_open(options("balanced"));
  const auto roles = picture_prompt(0, 3, 0);
  std::vector<SequenceId> sequences;
  for (int i = 0; i < 3; ++i) {
    sequences.push_back(must_create(*cache));
    std::vector<float> k = synthetic(kShape, kShape.kv_heads, 0, 0, 3, 1);
    if (i > 0) k[static_cast<size_t>(i)] = 1e6f;  // too large for 16 bit
    ASSERT_TRUE(append(*cache, sequences.back(), 0, 0, roles, k, k).ok());
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_TRUE(attend(*cache, sequences[0], 0, 0, 3, false).ok());
  const std::string words = attend(*cache, sequences[1], 0, 0, 3, false).message();
  EXPECT_NE(words.find("sequence 2, layer 0: k of token 0, KV head 0, channel 1 is 1000000"),
            std::string::npos)
      << words;
  const std::string rest = cache->settle().message();
  EXPECT_NE(rest.find("sequence 3, layer 0: k of token 0, KV head 0, channel 2"), std::string::npos)
      << rest;
  EXPECT_TRUE(cache->settle().ok());
}

TEST_F(GpuStream, a_range_that_cannot_be_encoded_is_found_before_its_record_is_served) {
  CacheOptions of_bf16 = options("balanced");
  of_bf16.open_codec = Codec::kBf16;
  auto cache = must_open(of_bf16);
  const SequenceId sequence = must_create(*cache);
  const auto roles = picture_prompt(0, 400, 0);
  std::vector<float> k = synthetic(kShape, kShape.kv_heads, 0, 0, 400, 1);
  k[100 * 128 + 5] = 1e30f;
  ASSERT_TRUE(append(*cache, sequence, 0, 0, roles, k, k).ok());
  ASSERT_TRUE(attend(*cache, sequence, 0, 0, 400, true).ok());
  const auto next = picture_prompt(0, 0, 1);
  // Whichever call comes when the device has found it.
  Status status = append(*cache, sequence, 0, 400, next);
  if (status.ok()) status = attend(*cache, sequence, 0, 400, 1, false);
  if (status.ok()) status = cache->settle();
  const std::string words = status.message();
  EXPECT_NE(words.find("sequence 1, layer 0: "), std::string::npos) << words;
  EXPECT_NE(words.find("has a range too large"), std::string::npos) << words;
}

// In a process of its own: afterwards the device is lost to it.
TEST_F(GpuStream, an_error_that_stays_is_told_in_full_once) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto lose_the_device = [&] {
    auto cache = must_open(options("balanced"));
    const SequenceId sequence = must_create(*cache);
    const auto roles = picture_prompt(0, 3, 0);
    float* const nowhere = reinterpret_cast<float*>(uintptr_t{1} << 46);
    (void)cache->append(
        0, {.sequence = sequence, .token_count = 3, .k = nowhere, .v = nowhere, .roles = roles});
    const std::string first = cache->settle().message(), second = cache->settle().message();
    const bool named = first.find("cudaErrorIllegalAddress") != std::string::npos;
    const bool once = second.find("the GPU no longer works for this process") != std::string::npos;
    std::fprintf(stderr, "%s\n%s\n", first.c_str(), second.c_str());
    std::_Exit(named && first != second && once ? 0 : 1);
  };
  EXPECT_EXIT(lose_the_device(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace vkv
