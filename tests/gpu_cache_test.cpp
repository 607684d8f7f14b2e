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
#include "kernels/gpu_devices.h"
#include "runtime/base/codec.h"
#include "tests/cache_driver.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

constexpr KvShape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 64};

// Whether K and Q have the driver's wide channels, which make scores large and attention sharp.
enum class Values { kWide, kPlain };

// Attention of the GPU takes queries and weights of encoded blocks at two bytes each: 2e-4 of
// max|O| where scores are of usual size, as gpu_attend_test has it; with wide keys, more. Windows
// go through a library where there is one, at fp16: 2e-3, as gpu_prefill_test has it.
double ceiling(Values values, const Cache& cache) {
  const bool has_library = cache.engine().find("prefill by cuDNN") != std::string::npos;
  return values == Values::kWide || has_library ? 2e-3 : 2e-4;
}

std::vector<float> values_of(const KvShape& shape, int heads, int layer, int first, int count,
                             uint32_t stream, Values kind) {
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

std::vector<std::byte> to_bytes(const std::vector<float>& values, ElementType element) {
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

std::vector<float> to_floats(const std::vector<std::byte>& bytes, ElementType element) {
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
Result<std::vector<float>> step(Cache& cache, const std::vector<Turn>& turns,
                                Values kind = Values::kWide) {
  const KvShape shape = cache.options().shape;
  const ElementType element = cache.options().element;
  std::vector<float> all;
  for (int layer = 0; layer < shape.layers; ++layer) {
    std::vector<Tensor> queries, outs;
    for (const Turn& turn : turns) {
      const int count = static_cast<int>(turn.roles.size());
      const auto values = [&](int heads, uint32_t which) {
        return to_bytes(values_of(shape, heads, layer, turn.first, count, which + turn.seed, kind),
                        element);
      };
      Tensor k(cache, values(shape.kv_heads, 1)), v(cache, values(shape.kv_heads, 2));
      queries.emplace_back(cache, values(shape.q_heads, 3));
      outs.emplace_back(cache,
                        std::vector<std::byte>(values(shape.q_heads, 3).size(), std::byte{0xff}));
      VKV_TRY(cache.append(layer, {.sequence = turn.sequence,
                                   .token_count = count,
                                   .k = k.data(),
                                   .v = v.data(),
                                   .roles = turn.roles}));
    }
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

std::vector<float> must_step(Cache& cache, const std::vector<Turn>& turns,
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

Played play(Cache& cache, Values kind = Values::kWide) {
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
double difference(const std::vector<float>& got, const std::vector<float>& want) {
  if (got.size() != want.size()) return INFINITY;
  double worst = 0, largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::isnan(got[i]) ? INFINITY : std::fabs(double{got[i]} - want[i]));
    largest = std::max(largest, std::fabs(double{want[i]}));
  }
  return worst / largest;
}

void expect_same_stats(const SequenceStats& got, const SequenceStats& want) {
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

  static CacheOptions on_cpu(std::string_view preset, KvShape shape = kShape) {
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
