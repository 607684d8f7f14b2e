// Tiers of a GPU's cache, played by an engine that does everything late: HBM, pinned DRAM and NVMe
// give the same bits, and nobody reads or writes memory behind the back of what is queued.
// gpu_store_test says the same of a real GPU. SPDX-License-Identifier: Apache-2.0
#include "tests/late_engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <list>
#include <string>
#include <vector>

#include "cpu/cpu_backend.h"
#include "kernels/gpu_backend.h"
#include "tests/cache_driver.h"
#include "tests/temporary_directory.h"
#include "vkv/cache.h"

namespace vkv {

// In place of the library's: this program has the engine above for device cuda.
Result<GpuEngine> make_gpu_engine(GpuEngineOptions options) {
  VKV_TRY_ASSIGN(cpu, make_cpu_backend({.threads = 1}));
  const auto memory = std::make_shared<LateMemory>();
  GpuEngine engine;
  engine.backend = std::make_unique<LateEngine>(std::move(cpu), memory, options.stream == nullptr);
  engine.device_memory = std::make_unique<LateSource>(memory);
  engine.pinned_memory = std::make_unique<LateSource>(memory);
  return Result<GpuEngine>(std::move(engine));
}

namespace {

constexpr KvShape kShape{.layers = 3, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
constexpr uint64_t kMiB = uint64_t{1} << 20;

// Everything a call points to stays until the cache has settled.
class LateModel {
 public:
  void feed(Cache& cache, SequenceId sequence, int first, const std::vector<Role>& roles,
            bool ends_window = false) {
    const KvShape shape = cache.options().shape;
    const int count = static_cast<int>(roles.size());
    const auto keep = [&](int heads, int layer, uint32_t stream) {
      tensors_.push_back(synthetic(shape, heads, layer, first, count, stream));
      return tensors_.back().data();
    };
    for (int layer = 0; layer < shape.layers; ++layer) {
      must(cache.append(layer, {.sequence = sequence,
                                .token_count = count,
                                .k = keep(shape.kv_heads, layer, 1),
                                .v = keep(shape.kv_heads, layer, 2),
                                .roles = roles}));
      float* const q = keep(shape.q_heads, layer, 3);
      outs_.emplace_back(tensors_.back().size(), NAN);
      const AttendRequest request{.sequence = sequence,
                                  .q_len = count,
                                  .q = q,
                                  .out = outs_.back().data(),
                                  .ends_window = ends_window};
      must(cache.attend(layer, {&request, 1}));
    }
  }

  // Outputs since the last call of it.
  std::vector<float> settle(Cache& cache) {
    must(cache.settle());
    for (const TierStats& tier : cache.stats().tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
    std::vector<float> all;
    for (const std::vector<float>& out : outs_) all.insert(all.end(), out.begin(), out.end());
    outs_.clear();
    tensors_.clear();
    return all;
  }

 private:
  std::list<std::vector<float>> tensors_, outs_;
};

int ingest(LateModel& model, Cache& cache, SequenceId sequence, int windows) {
  int position = 0;
  for (int window = 0; window < windows; ++window, position += 64)
    model.feed(cache, sequence, position, picture_prompt(0, 64, 0), window % 4 == 3);
  model.feed(cache, sequence, position, picture_prompt(0, 0, 20), true);
  return position + 20;
}

std::vector<float> go_on(LateModel& model, Cache& cache, SequenceId sequence, int position) {
  model.feed(cache, sequence, position, picture_prompt(0, 0, 40), true);
  position += 40;
  for (int step = 0; step < 20; ++step, ++position)
    model.feed(cache, sequence, position, picture_prompt(0, 0, 1));
  return model.settle(cache);
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::isfinite(a[i]) ? std::fabs(double{a[i]} - b[i]) : INFINITY);
    largest = std::max(largest, std::fabs(double{b[i]}));
  }
  return worst / largest;
}

class LateEngineTest : public testing::Test {
 protected:
  CacheOptions on_cpu(std::string_view preset) const {
    return {.shape = kShape,
            .precision = precision_preset(preset).value(),
            .recent_tokens = 16,
            .dram_bytes_max = 64 * kMiB,
            .nvme_bytes_max = 64 * kMiB,
            .store_path = directory_ / ("kv.store." + std::string(preset)),
            .keep_store = true,
            .extent_bytes_max = 64 << 10,
            .threads = 1};
  }
  // A caller's stream: nothing waits but for settle().
  CacheOptions on_gpu(std::string_view preset) const {
    CacheOptions options = on_cpu(preset);
    options.device = Device::kCuda;
    options.hbm_bytes_max = 64 * kMiB;
    options.stream = const_cast<TemporaryDirectory*>(&directory_);
    options.hbm_ahead_bytes = 0;
    return options;
  }
  // Where blocks lie when memory is short: none in HBM, few or none in DRAM.
  static CacheOptions crowded(CacheOptions options, uint64_t dram_block_bytes) {
    options.hbm_block_bytes_max = 0;
    options.dram_block_bytes_max = dram_block_bytes;
    options.prefetch_extents = 24;
    return options;
  }

  TemporaryDirectory directory_;
};

TEST_F(LateEngineTest, all_tiers_give_the_same_bits) {
  for (const std::string_view preset : {"exact", "balanced", "visual1", "onebit"}) {
    std::vector<float> want;
    for (const uint64_t dram_blocks : {UINT64_MAX, uint64_t{256} << 10, uint64_t{0}}) {
      CacheOptions options = on_gpu(preset);
      options.keep_store = false;
      if (dram_blocks != UINT64_MAX) options = crowded(options, dram_blocks);
      auto cache = must_open(options);
      ASSERT_NE(cache, nullptr);
      LateModel model;
      const SequenceId sequence = must_create(*cache);
      const int position = ingest(model, *cache, sequence, 20);
      const SequenceId fork = cache->fork(sequence).value();
      std::vector<float> got = go_on(model, *cache, sequence, position);
      const std::vector<float> other = go_on(model, *cache, fork, position);
      got.insert(got.end(), other.begin(), other.end());
      const CacheStats stats = cache->stats();
      if (want.empty()) {
        want = got;
        EXPECT_GT(stats.tier[0].extent_count, 0u) << preset;
        continue;
      }
      EXPECT_EQ(stats.tier[0].extent_count, 0u) << preset;
      EXPECT_EQ(stats.tier[1].extent_count > 0, dram_blocks > 0) << preset;
      EXPECT_GT(stats.tier[2].extent_count, 0u) << preset;
      EXPECT_GT(stats.prefetch_hit_count, 0u) << preset;
      EXPECT_TRUE(same(got, want)) << preset << " " << dram_blocks;
    }
  }
}

TEST_F(LateEngineTest, what_was_demoted_rises_again_when_another_sequence_is_erased) {
  std::vector<float> want;
  uint64_t own_bytes = 0;
  for (const bool is_short : {false, true}) {
    CacheOptions options = on_gpu("balanced");
    options.keep_store = false;
    options.prefetch_extents = 24;
    if (is_short) {
      options.hbm_block_bytes_max = own_bytes + own_bytes / 8;
      options.dram_block_bytes_max = own_bytes / 2;
    }
    auto cache = must_open(options);
    ASSERT_NE(cache, nullptr);
    LateModel model;
    const SequenceId stays = must_create(*cache), goes = must_create(*cache);
    int position = ingest(model, *cache, stays, 20);
    own_bytes = cache->sequence_stats(stays).value().role[1].sealed_stored_bits / 8;
    ingest(model, *cache, goes, 20);
    (void)model.settle(*cache);
    EXPECT_EQ(cache->stats().tier[2].extent_count > 0, is_short);
    ASSERT_TRUE(cache->erase(goes).ok());
    std::vector<float> got;
    for (int step = 0; step < 40; ++step, ++position) {
      model.feed(*cache, stays, position, picture_prompt(0, 0, 1));
      if (step % 4 != 3) continue;
      const std::vector<float> some = model.settle(*cache);
      got.insert(got.end(), some.begin(), some.end());
    }
    // However long the disk takes.
    const auto is_below = [&] {
      const CacheStats stats = cache->stats();
      return stats.tier[1].extent_count + stats.tier[2].extent_count > 0;
    };
    for (int step = 0; step < 2000 && is_below(); ++step, ++position) {
      model.feed(*cache, stays, position, picture_prompt(0, 0, 1));
      (void)model.settle(*cache);
    }
    EXPECT_FALSE(is_below());
    EXPECT_EQ(cache->stats().risen_bytes > 0, is_short);
    if (want.empty()) want = got;
    EXPECT_TRUE(same(got, want)) << is_short;
  }
}

TEST_F(LateEngineTest, a_saved_sequence_goes_on_from_every_tier_into_every_tier) {
  for (const std::string_view preset : {"exact", "balanced", "onebit"}) {
    std::vector<float> want, want_other;
    int position = 0;
    for (const bool saves_crowded : {false, true}) {
      CacheOptions saving = on_gpu(preset);
      if (saves_crowded) saving = crowded(saving, uint64_t{64} << 10);
      saving.store_path += saves_crowded ? "1" : "0";
      {
        auto cache = must_open(saving);
        LateModel model;
        const SequenceId sequence = must_create(*cache);
        position = ingest(model, *cache, sequence, 20);
        must(cache->save(sequence, key_of(1)));
        (void)model.settle(*cache);
        const std::vector<float> got = go_on(model, *cache, sequence, position);
        if (want.empty()) want = got;
        EXPECT_TRUE(same(got, want)) << preset;
      }
      for (const uint64_t dram_blocks : {UINT64_MAX, uint64_t{256} << 10, uint64_t{0}}) {
        CacheOptions restoring = on_gpu(preset);
        restoring.store_path = saving.store_path;
        if (dram_blocks != UINT64_MAX) restoring = crowded(restoring, dram_blocks);
        auto cache = must_open(restoring);
        LateModel model;
        // Work of before is still queued when the disk is read.
        const SequenceId other = must_create(*cache);
        const int end = ingest(model, *cache, other, 8);
        (void)model.settle(*cache);
        for (int step = 0; step < 4; ++step)
          model.feed(*cache, other, end + step, picture_prompt(0, 0, 1));
        must(cache->erase(other));
        const Result<SequenceId> sequence = cache->restore(key_of(1));
        ASSERT_TRUE(sequence.ok()) << sequence.status().message();
        const CacheStats stats = cache->stats();
        EXPECT_EQ(stats.tier[0].extent_count > 0, dram_blocks == UINT64_MAX) << preset;
        EXPECT_EQ(stats.tier[2].extent_count > 0, dram_blocks != UINT64_MAX) << preset;
        const std::vector<float> got_other = model.settle(*cache);
        if (want_other.empty()) want_other = got_other;
        EXPECT_TRUE(same(got_other, want_other)) << preset << saves_crowded << " " << dram_blocks;
        EXPECT_TRUE(same(go_on(model, *cache, sequence.value(), position), want))
            << preset << saves_crowded << " " << dram_blocks;
      }
    }
  }
}

TEST_F(LateEngineTest, cpu_and_gpu_restore_each_others_sequences) {
  for (const bool saves_on_gpu : {false, true}) {
    CacheOptions saving = saves_on_gpu ? on_gpu("balanced") : on_cpu("balanced");
    CacheOptions restoring = saves_on_gpu ? on_cpu("balanced") : on_gpu("balanced");
    std::vector<float> want, got;
    int position = 0;
    {
      auto cache = must_open(saving);
      LateModel model;
      const SequenceId sequence = must_create(*cache);
      position = ingest(model, *cache, sequence, 20);
      must(cache->save(sequence, key_of(1)));
      (void)model.settle(*cache);
      want = go_on(model, *cache, sequence, position);
    }
    auto cache = must_open(restoring);
    EXPECT_TRUE(cache->saved().value()[0].fits_options);
    LateModel model;
    const Result<SequenceId> sequence = cache->restore(key_of(1));
    ASSERT_TRUE(sequence.ok()) << sequence.status().message();
    got = go_on(model, *cache, sequence.value(), position);
    EXPECT_LT(difference(got, want), 1e-5);  // merged in another order
    must(cache->save(sequence.value(), key_of(2)));
    must(cache->erase_saved(key_of(1)));
    must(cache->erase_saved(key_of(2)));
  }
}

TEST_F(LateEngineTest, a_layer_that_staging_has_no_room_for_says_so) {
  CacheOptions options = crowded(on_gpu("exact"), 0);
  options.prefetch_extents = 4;
  options.stream = nullptr;  // every call waits, as feed() keeps nothing
  auto cache = must_open(options);
  const SequenceId sequence = must_create(*cache);
  Status status;
  for (int window = 0; window < 60 && status.ok(); ++window)
    status = feed(*cache, sequence, 64 * window, picture_prompt(0, 64, 0), true).status();
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_NE(status.message().find("staging has room for 4; raise prefetch_extents"),
            std::string::npos)
      << status.message();
  for (const TierStats& tier : cache->stats().tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
}

}  // namespace
}  // namespace vkv
