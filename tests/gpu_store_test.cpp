// The NVMe tier under a cache on a GPU: HBM, pinned DRAM and NVMe give the same bits, and a saved
// sequence goes on from every tier into every tier, on the CPU too. late_engine_test plays the same
// without a GPU.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu_cache_driver.h"
#include "tests/temporary_directory.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class GpuStore : public GpuCache {
 protected:
  CacheOptions with_store(CacheOptions options, const std::string& file) const {
    options.nvme_bytes_max = 256 * kMiB;
    options.store_path = directory_ / file;
    options.keep_store = true;
    return options;
  }
  // No block in HBM, and of blocks in DRAM so many bytes.
  static CacheOptions crowded(CacheOptions options, uint64_t dram_block_bytes) {
    options.hbm_block_bytes_max = 0;
    options.dram_block_bytes_max = dram_block_bytes;
    return options;
  }

  // A picture in windows and a question; returns the number of tokens.
  static int ingest(Cache& cache, SequenceId sequence) {
    must_step(cache, {{sequence, 0, picture_prompt(4, 700, 0), true, 0}});
    must_step(cache, {{sequence, 704, picture_prompt(0, 900, 40), true, 0}});
    return 1644;
  }
  static std::vector<float> go_on(Cache& cache, SequenceId sequence, int position) {
    std::vector<float> all =
        must_step(cache, {{sequence, position, picture_prompt(0, 0, 50), true, 0}});
    for (int i = 0; i < 20; ++i) {
      const auto more =
          must_step(cache, {{sequence, position + 50 + i, picture_prompt(0, 0, 1), false, 0}});
      all.insert(all.end(), more.begin(), more.end());
    }
    for (const TierStats& tier : cache.stats().tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
    return all;
  }

  TemporaryDirectory directory_;
};

TEST_F(GpuStore, extents_on_nvme_give_the_same_bits) {
  for (const std::string_view preset : {"exact", "balanced", "visual1", "onebit"}) {
    auto large = must_open(on_gpu(on_cpu(preset)));
    const Played want = play(*large);
    for (const uint64_t dram_blocks : {kMiB / 4, uint64_t{0}}) {
      CacheOptions options =
          crowded(with_store(on_gpu(on_cpu(preset)), std::string(preset)), dram_blocks);
      options.keep_store = false;
      auto small = must_open(options);
      ASSERT_NE(small, nullptr);
      const Played got = play(*small);
      for (size_t i = 0; i < want.outs.size(); ++i)
        EXPECT_TRUE(same(got.outs[i], want.outs[i])) << preset << ", step " << i;
      const CacheStats stats = small->stats();
      EXPECT_EQ(stats.tier[0].extent_count, 0u) << preset;
      EXPECT_GT(stats.tier[2].extent_count, 0u) << preset;
      EXPECT_GT(stats.nvme_read_bytes, 0u) << preset;
      for (const TierStats& tier : stats.tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
      std::cout << preset << ", " << small->io_engine() << ": " << stats.tier[1].extent_count
                << " extents in DRAM, " << stats.tier[2].extent_count << " on NVMe, read "
                << stats.nvme_read_bytes << " bytes, " << stats.prefetch_hit_count << " of "
                << stats.nvme_read_count << " ahead\n";
    }
  }
}

TEST_F(GpuStore, a_saved_sequence_goes_on_from_every_tier_into_every_tier) {
  for (const std::string_view preset : {"exact", "balanced", "onebit"}) {
    std::vector<float> want;
    int position = 0;
    for (const bool saves_crowded : {false, true}) {
      CacheOptions saving =
          with_store(on_gpu(on_cpu(preset)), std::string(preset) + (saves_crowded ? "1" : "0"));
      const CacheOptions plain = saving;
      if (saves_crowded) saving = crowded(saving, kMiB / 8);
      {
        auto cache = must_open(saving);
        ASSERT_NE(cache, nullptr);
        const SequenceId sequence = must_create(*cache);
        position = ingest(*cache, sequence);
        must(cache->save(sequence, key_of(1)));
        const std::vector<float> got = go_on(*cache, sequence, position);
        if (want.empty()) want = got;
        EXPECT_TRUE(same(got, want)) << preset;
      }
      for (const uint64_t dram_blocks : {UINT64_MAX, kMiB / 4, uint64_t{0}}) {
        auto cache = must_open(dram_blocks == UINT64_MAX ? plain : crowded(plain, dram_blocks));
        ASSERT_NE(cache, nullptr);
        const Result<SequenceId> sequence = cache->restore(key_of(1));
        ASSERT_TRUE(sequence.ok()) << sequence.status().message();
        const CacheStats stats = cache->stats();
        EXPECT_EQ(stats.tier[0].extent_count > 0, dram_blocks == UINT64_MAX) << preset;
        const bool all_fit = dram_blocks == UINT64_MAX || (dram_blocks > 0 && preset == "onebit");
        EXPECT_EQ(stats.tier[2].extent_count == 0, all_fit) << preset;
        EXPECT_TRUE(same(go_on(*cache, sequence.value(), position), want))
            << preset << saves_crowded << " " << dram_blocks;
      }
    }
  }
}

TEST_F(GpuStore, cpu_and_gpu_restore_each_others_sequences) {
  for (const bool saves_on_gpu : {false, true}) {
    const CacheOptions cpu = with_store(on_cpu("balanced"), saves_on_gpu ? "a" : "b");
    const CacheOptions gpu = on_gpu(cpu);
    std::vector<float> want;
    int position = 0;
    {
      auto cache = must_open(saves_on_gpu ? gpu : cpu);
      const SequenceId sequence = must_create(*cache);
      position = ingest(*cache, sequence);
      must(cache->save(sequence, key_of(1)));
      want = go_on(*cache, sequence, position);
    }
    auto cache = must_open(saves_on_gpu ? cpu : gpu);
    const Result<SequenceId> sequence = cache->restore(key_of(1));
    ASSERT_TRUE(sequence.ok()) << sequence.status().message();
    const double worst = difference(go_on(*cache, sequence.value(), position), want);
    std::cout << (saves_on_gpu ? "GPU to CPU: " : "CPU to GPU: ") << worst << "\n";
    EXPECT_LT(worst, ceiling(Values::kWide, *cache));
  }
}

TEST_F(GpuStore, a_layer_that_staging_has_no_room_for_says_so) {
  CacheOptions options = crowded(with_store(on_gpu(on_cpu("exact")), "kv"), 0);
  options.prefetch_extents = 4;
  auto cache = must_open(options);
  const SequenceId sequence = must_create(*cache);
  Status status;
  for (int position = 0; status.ok() && position < 8192; position += 256)
    status = step(*cache, {{sequence, position, picture_prompt(0, 256, 0), true, 0}}).status();
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_NE(status.message().find("staging has room for 4; raise prefetch_extents"),
            std::string::npos)
      << status.message();
}

}  // namespace
}  // namespace vkv
