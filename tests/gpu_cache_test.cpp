// vkv::Cache on a GPU: it answers as on the CPU, stores the same tokens in the same classes, keeps
// its budgets, and where HBM is too small answers the same bits from pinned DRAM.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/cuda_handles.h"
#include "tests/gpu_cache_driver.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

constexpr KvShape kShape = kGpuTestShape;

// Scores of saliency differ in their last bits: where two tokens rank alike, the other one may be
// high, and then classes, counted here too, stay the same in number. No such tie is in these
// values.
TEST_F(GpuCache, every_preset_answers_as_on_the_cpu) {
  for (const std::string_view preset : precision_preset_names())
    for (const Values kind : {Values::kPlain, Values::kWide})
      compare(on_cpu(preset), kind, std::string(preset));
}

TEST_F(GpuCache, other_shapes_answer_as_on_the_cpu) {
  for (const KvShape shape :
       {KvShape{1, 3, 1, 80}, KvShape{2, 14, 2, 128}, KvShape{1, 2, 2, 32}, KvShape{1, 4, 1, 256}})
    for (const Values kind : {Values::kPlain, Values::kWide})
      compare(on_cpu("balanced", shape), kind, std::to_string(shape.head_dim));
}

TEST_F(GpuCache, all_element_types_and_open_codecs_serve) {
  // What is returned is rounded to the element type, and may be rounded the other way.
  for (const auto& [element, open, rounding] : {std::tuple{ElementType::kF16, Codec::kF16, 0x1p-10},
                                                {ElementType::kBf16, Codec::kBf16, 0x1p-7},
                                                {ElementType::kF32, Codec::kBf16, 0.0}}) {
    CacheOptions options = on_cpu("balanced");
    options.element = element;
    options.open_codec = open;
    compare(options, Values::kPlain, "element " + std::to_string(static_cast<int>(element)),
            rounding);
  }
}

// The way of VKV_PREFILL: cuDNN's where there is one, and the kernel of decoding.
TEST_F(GpuCache, a_prompt_longer_than_the_work_memory_is_cut) {
  const KvShape shape{1, 8, 2, 64};
  const auto once = [](Cache& cache) {
    const SequenceId sequence = must_create(cache);
    must_step(cache, {{sequence, 0, picture_prompt(4, 900, 0), true, 0}}, Values::kPlain);
    return must_step(cache, {{sequence, 904, picture_prompt(0, 4000, 40), true, 0}},
                     Values::kPlain);
  };
  auto cpu = must_open(on_cpu("balanced", shape));
  const std::vector<float> want = once(*cpu);
  for (const bool own : {false, true}) {
    if (own) setenv("VKV_PREFILL", "own", /*overwrite=*/1);
    auto gpu = must_open(on_gpu(on_cpu("balanced", shape)));
    if (own) unsetenv("VKV_PREFILL");
    std::cout << gpu->engine() << "\n";
    EXPECT_LT(difference(once(*gpu), want), ceiling(Values::kPlain, *gpu)) << gpu->engine();
  }
}

// The CPU takes its part of what lies in DRAM, of drafts and batches too. At 16 bit: what is
// encoded leaves enough room in HBM here that nothing lies elsewhere.
TEST_F(GpuCache, the_cpu_beside_the_gpu_gives_the_same_answers) {
  setenv("VKV_CPU", "onednn", /*overwrite=*/1);
  auto alone = must_open(on_gpu(on_cpu("exact")));
  const Played want = play(*alone, Values::kPlain);
  for (const double share : {0.3, 1.0}) {
    CacheOptions options = on_gpu(on_cpu("exact"));
    options.host_share = share;
    auto both = crowded(options);
    ASSERT_NE(both, nullptr);
    const Played got = play(*both, Values::kPlain);
    double worst = 0;
    for (size_t i = 0; i < want.outs.size(); ++i)
      worst = std::max(worst, difference(got.outs[i], want.outs[i]));
    const CacheStats stats = both->stats();
    std::cout << share << ": " << worst << ", CPU " << stats.host_read_bytes << " bytes, link "
              << stats.link_read_bytes << "\n";
    EXPECT_LT(worst, ceiling(Values::kPlain, *both)) << share;
    EXPECT_GT(stats.host_read_bytes, 0u) << share;
    EXPECT_EQ(stats.link_read_bytes > 0, share < 1) << share;
    for (const TierStats& tier : stats.tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
  }
  setenv("VKV_CPU", "reference", /*overwrite=*/1);
}

TEST_F(GpuCache, extents_in_pinned_dram_give_the_same_bits) {
  for (const std::string_view preset : {"exact", "balanced", "visual1", "extreme"}) {
    auto large = must_open(on_gpu(on_cpu(preset)));
    const Played want = play(*large);
    EXPECT_EQ(large->stats().demoted_bytes, 0u);

    auto small = crowded(on_gpu(on_cpu(preset)));
    ASSERT_NE(small, nullptr);
    const Played got = play(*small);
    for (size_t i = 0; i < want.outs.size(); ++i)
      EXPECT_EQ(
          std::memcmp(got.outs[i].data(), want.outs[i].data(), want.outs[i].size() * sizeof(float)),
          0)
          << preset << ", step " << i;
    const CacheStats stats = small->stats();
    EXPECT_GT(stats.tier[1].extent_count, 0u) << preset;
    for (const TierStats& tier : stats.tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
    std::cout << preset << ": " << stats.tier[0].extent_count << " extents in HBM, "
              << stats.tier[1].extent_count << " in DRAM\n";
  }
}

TEST_F(GpuCache, full_hbm_and_full_dram_name_the_dram_tier_and_erasing_helps) {
  CacheOptions options = on_gpu(on_cpu("exact"));
  options.hbm_bytes_max = least_hbm(options) + (uint64_t{1} << 20);
  options.dram_bytes_max = 2 << 20;
  auto cache = must_open(options);
  const SequenceId sequence = must_create(*cache);
  Status status;
  for (int position = 0; status.ok() && position < 32768; position += 256)
    status = step(*cache, {{sequence, position, picture_prompt(0, 256, 0), true, 0}}).status();
  EXPECT_EQ(status.code(), Code::kOutOfMemory) << status.message();
  EXPECT_NE(status.message().find("dram tier"), std::string::npos) << status.message();
  for (const TierStats& tier : cache->stats().tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
  ASSERT_TRUE(cache->erase(sequence).ok());
  EXPECT_EQ(cache->stats().tier[0].extent_count + cache->stats().tier[1].extent_count, 0u);
  must_step(*cache, {{must_create(*cache), 0, picture_prompt(0, 256, 0), true, 0}});
}

TEST_F(GpuCache, a_value_that_is_not_finite_is_refused_in_the_cpus_words) {
  for (const ElementType element : {ElementType::kF32, ElementType::kF16, ElementType::kBf16}) {
    CacheOptions options = on_cpu("balanced");
    options.element = element;
    auto cpu = must_open(options), gpu = must_open(on_gpu(options));
    for (const bool in_v : {false, true}) {
      std::vector<float> good = synthetic(kShape, kShape.kv_heads, 0, 0, 9, 1), bad = good;
      bad[5 * 128 + 70] = -INFINITY;
      bad[7 * 128 + 3] = NAN;
      const std::vector<Role> roles = picture_prompt(0, 9, 0);
      std::vector<std::string> words;
      for (Cache* cache : {cpu.get(), gpu.get()}) {
        const SequenceId sequence = must_create(*cache);
        Tensor k(*cache, to_bytes(in_v ? good : bad, element));
        Tensor v(*cache, to_bytes(bad, element));
        const Status status = cache->append(
            0,
            {.sequence = sequence, .token_count = 9, .k = k.data(), .v = v.data(), .roles = roles});
        EXPECT_EQ(status.code(), Code::kInvalidArgument);
        words.push_back(status.message());
        EXPECT_EQ(cache->sequence_stats(sequence).value().token_count, 0u);
        must_step(*cache, {{sequence, 0, roles, true, 0}});
      }
      EXPECT_EQ(words[0], words[1]);
      EXPECT_NE(words[0].find(in_v ? "v of token 5, KV head 1, channel 6 is -inf"
                                   : "k of token 5, KV head 1, channel 6 is -inf"),
                std::string::npos)
          << words[0];
    }
  }
}

TEST_F(GpuCache, what_cannot_be_opened_says_why) {
  CacheOptions options = on_gpu(on_cpu("balanced"));
  options.device_index = 99;
  Status status = Cache::open(options).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("device_index is 99; CUDA sees"), std::string::npos);

  options = on_gpu(on_cpu("balanced", KvShape{1, 2, 2, 160}));
  status = Cache::open(options).status();
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("head_dim is 160"), std::string::npos) << status.message();

  options = on_gpu(on_cpu("balanced"));
  options.hbm_bytes_max = uint64_t{1} << 50;
  status = Cache::open(options).status();
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_NE(status.message().find("cudaMalloc"), std::string::npos) << status.message();
  EXPECT_NE(must_open(on_gpu(on_cpu("balanced"))), nullptr);
}

TEST_F(GpuCache, on_a_callers_stream_work_is_in_order_without_waiting) {
  auto own = must_open(on_gpu(on_cpu("balanced", KvShape{1, 4, 2, 64})));
  auto stream = make_stream();
  ASSERT_TRUE(stream.ok());
  CacheOptions options = own->options();
  options.stream = stream.value().get();
  auto ordered = must_open(options);
  const KvShape shape = options.shape;

  const auto roles = picture_prompt(4, 600, 40);
  const std::vector<float> want = must_step(*own, {{must_create(*own), 0, roles, true, 0}});
  const auto pinned = [&](const std::vector<float>& values) {
    auto array = CudaArray<float>::make(values.size(), CudaMemory::kPinned);
    std::copy(values.begin(), values.end(), array.value().data());
    return std::move(array.value());
  };
  const int count = static_cast<int>(roles.size());
  const auto host_k = pinned(synthetic(shape, shape.kv_heads, 0, 0, count, 1));
  const auto host_v = pinned(synthetic(shape, shape.kv_heads, 0, 0, count, 2));
  const auto host_q = pinned(synthetic(shape, shape.q_heads, 0, 0, count, 3));
  const auto host_out = pinned(std::vector<float>(want.size(), NAN));
  auto k = CudaArray<float>::make(host_k.size()), v = CudaArray<float>::make(host_v.size());
  auto q = CudaArray<float>::make(host_q.size()), out = CudaArray<float>::make(want.size());
  const SequenceId sequence = must_create(*ordered);
  const cudaStream_t on = stream.value().get();
  ASSERT_TRUE(copy_async(k.value().data(), host_k.data(), host_k.size(), on).ok());
  ASSERT_TRUE(copy_async(v.value().data(), host_v.data(), host_v.size(), on).ok());
  ASSERT_TRUE(ordered
                  ->append(0, {.sequence = sequence,
                               .token_count = count,
                               .k = k.value().data(),
                               .v = v.value().data(),
                               .roles = roles})
                  .ok());
  ASSERT_TRUE(copy_async(q.value().data(), host_q.data(), host_q.size(), on).ok());
  const AttendRequest request{.sequence = sequence,
                              .q_len = count,
                              .q = q.value().data(),
                              .out = out.value().data(),
                              .ends_window = true};
  ASSERT_TRUE(ordered->attend(0, {&request, 1}).ok());
  ASSERT_TRUE(copy_async(host_out.data(), out.value().data(), want.size(), on).ok());
  ASSERT_TRUE(synchronize(on).ok());
  EXPECT_EQ(std::memcmp(host_out.data(), want.data(), want.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace vkv
