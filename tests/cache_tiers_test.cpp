// Tiers: where a block lies never changes an answer, budgets are hard, and lost bytes are an error.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "tests/cache_driver.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

constexpr KvShape kShape{.layers = 3, .q_heads = 4, .kv_heads = 2, .head_dim = 64};

constexpr int kMany = 80;  // windows that do not fit the least DRAM
constexpr uint64_t kWindowBytes = 128
                                  << 10;  // prefill windows of 64 tokens, in a buffer that grows

CacheOptions in_dram(std::string_view preset_name) {
  return {.shape = kShape,
          .precision = precision_preset(preset_name).value(),
          .recent_tokens = 16,
          .dram_bytes_max = uint64_t{64} << 20,
          .extent_bytes_max = 64 << 10};
}

CacheOptions on_nvme(std::string_view preset_name, uint64_t dram_bytes, IoBackend io) {
  CacheOptions options = in_dram(preset_name);
  options.dram_bytes_max = dram_bytes;
  options.nvme_bytes_max = uint64_t{64} << 20;
  options.store_path = store_path("tiers");
  options.io_backend = io;
  options.prefetch_extents = 2;
  return options;
}

// The least DRAM that Cache::open accepts, as its own error names it.
uint64_t least_dram(CacheOptions options) {
  options.dram_bytes_max = 1;
  const std::string message = Cache::open(options).status().message();
  return std::stoull(message.substr(message.find("at least ") + 9));
}

// Feeds windows of 64 tokens, then decodes; asserts that budgets hold all the while.
std::vector<float> play(Cache& cache, SequenceId sequence, int windows) {
  std::vector<float> all;
  const auto add = [&](const std::vector<float>& more) {
    all.insert(all.end(), more.begin(), more.end());
    const CacheStats stats = cache.stats();
    for (const TierStats& tier : stats.tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
  };
  int position = 0;
  for (int window = 0; window < windows; ++window, position += 64)
    add(must_feed(cache, sequence, position, picture_prompt(0, 64, 0), window % 8 == 7));
  add(must_feed(cache, sequence, position, picture_prompt(0, 0, 20), true));
  position += 20;
  for (int step = 0; step < 3; ++step, ++position)
    add(must_feed(cache, sequence, position, picture_prompt(0, 0, 1)));
  return all;
}

TEST(cache_tiers, dram_and_nvme_give_bit_identical_answers) {
  for (std::string_view preset : precision_preset_names()) {
    auto dram = must_open(in_dram(preset));
    const auto want = play(*dram, must_create(*dram), 24);
    EXPECT_EQ(dram->stats().tier[2].extent_count, 0u);
    for (IoBackend io : {IoBackend::kUring, IoBackend::kThreads}) {
      CacheOptions options = on_nvme(preset, 0, io);
      options.dram_bytes_max = least_dram(options) + kWindowBytes;
      options.dram_block_bytes_max = 16 << 10;
      Result<std::unique_ptr<Cache>> opened = Cache::open(options);
      if (!opened.ok() && io == IoBackend::kUring) {
        std::cout << "io_uring: " << opened.status().message() << "\n";
        continue;
      }
      ASSERT_TRUE(opened.ok()) << opened.status().message();
      Cache& cache = *opened.value();
      const SequenceId sequence = must_create(cache);
      const auto got = play(cache, sequence, 24);
      ASSERT_EQ(got.size(), want.size());
      EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0) << preset;
      const CacheStats stats = cache.stats();
      const auto visual = cache.sequence_stats(sequence).value().role[1];
      EXPECT_GT(visual.nvme_value_count, visual.sealed_value_count / 2) << preset;
      EXPECT_GT(stats.tier[2].extent_count, 0u) << preset;
      EXPECT_GT(stats.nvme_read_count, 0u) << preset;
      EXPECT_GT(stats.prefetch_hit_count, 0u) << preset;
    }
  }
}

TEST(cache_tiers, most_of_the_visual_blocks_can_live_on_nvme) {
  CacheOptions options = on_nvme("exact", 0, IoBackend::kAuto);
  options.dram_bytes_max = least_dram(options) + kWindowBytes;
  auto cache = must_open(options);
  const SequenceId sequence = must_create(*cache);
  play(*cache, sequence, kMany);
  const SequenceStats stats = cache->sequence_stats(sequence).value();
  const RoleStats& visual = stats.role[static_cast<size_t>(Role::kVisual)];
  EXPECT_GT(visual.nvme_value_count, visual.value_count / 2);
}

TEST(cache_tiers, a_full_dram_without_nvme_names_the_tier_and_keeps_what_it_has) {
  CacheOptions options = in_dram("exact");
  options.dram_bytes_max = least_dram(options) + kWindowBytes;
  auto cache = must_open(options);
  const SequenceId sequence = must_create(*cache);
  Status status;
  int position = 0;
  for (; status.ok() && position < 8192; position += 64)
    status = feed(*cache, sequence, position, picture_prompt(0, 64, 0), true).status();
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_NE(status.message().find("dram"), std::string::npos) << status.message();
  EXPECT_LE(cache->stats().tier[1].bytes_peak, options.dram_bytes_max);
  ASSERT_TRUE(cache->erase(sequence).ok());
  must_feed(*cache, must_create(*cache), 0, picture_prompt(0, 64, 0), true);
}

TEST(cache_tiers, full_dram_and_full_nvme_name_the_nvme_tier) {
  CacheOptions options = on_nvme("exact", 0, IoBackend::kAuto);
  options.dram_bytes_max = least_dram(options) + kWindowBytes;
  options.nvme_bytes_max = 2 << 20;
  auto cache = must_open(options);
  const SequenceId sequence = must_create(*cache);
  Status status;
  for (int position = 0; status.ok() && position < 16384; position += 64)
    status = feed(*cache, sequence, position, picture_prompt(0, 64, 0), true).status();
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_NE(status.message().find("nvme"), std::string::npos) << status.message();
  ASSERT_TRUE(cache->erase(sequence).ok());
  EXPECT_EQ(cache->stats().tier[2].bytes_used, 0u);
}

TEST(cache_tiers, forks_share_what_lies_on_nvme) {
  CacheOptions options = on_nvme("balanced", 0, IoBackend::kAuto);
  options.dram_bytes_max = least_dram(options) + kWindowBytes;
  auto cache = must_open(options);
  const SequenceId parent = must_create(*cache);
  play(*cache, parent, kMany);
  const uint64_t before = cache->stats().tier[2].extent_count;
  ASSERT_GT(before, 0u);
  const SequenceId child = cache->fork(parent).value();
  EXPECT_LE(cache->stats().tier[2].extent_count, before + 3) << "open tokens may push some out";
  const int position = kMany * 64 + 23;
  const auto roles = picture_prompt(0, 0, 4);
  EXPECT_EQ(must_feed(*cache, parent, position, roles), must_feed(*cache, child, position, roles));
  ASSERT_TRUE(cache->erase(parent).ok());
  ASSERT_TRUE(cache->erase(child).ok());
  EXPECT_EQ(cache->stats().tier[2].extent_count, 0u);
  EXPECT_EQ(cache->stats().tier[2].bytes_used, 0u);
}

TEST(cache_tiers, damaged_bytes_on_disk_are_an_error_that_names_the_sequence) {
  CacheOptions options = on_nvme("balanced", 0, IoBackend::kThreads);
  options.dram_bytes_max = least_dram(options) + kWindowBytes;
  auto cache = must_open(options);
  const SequenceId sequence = must_create(*cache);
  play(*cache, sequence, kMany);
  {
    std::fstream file(options.store_path, std::ios::in | std::ios::out | std::ios::binary);
    ASSERT_TRUE(file.is_open());
    const std::vector<char> noise(4096, '\x5a');
    const auto size = static_cast<int64_t>(std::filesystem::file_size(options.store_path));
    for (int64_t at = 4096; at + 4096 <= size; at += 4096) {
      file.seekp(at);
      file.write(noise.data(), static_cast<std::streamsize>(noise.size()));
    }
  }
  Status status;
  for (int step = 0; status.ok() && step < 3; ++step)  // what was read ahead may still be good
    status = feed(*cache, sequence, kMany * 64 + 23 + step, picture_prompt(0, 0, 1)).status();
  EXPECT_EQ(status.code(), Code::kDataLoss) << status.message();
  EXPECT_NE(status.message().find("sequence " + std::to_string(static_cast<uint64_t>(sequence))),
            std::string::npos)
      << status.message();
  EXPECT_TRUE(cache->erase(sequence).ok());
}

TEST(cache_tiers, what_went_to_nvme_comes_back_when_another_sequence_is_erased) {
  const auto decode = [](Cache& cache, SequenceId sequence) {
    std::vector<float> all;
    for (int step = 0; step < 30; ++step) {
      const auto out = must_feed(cache, sequence, 40 * 64 + 23 + step, picture_prompt(0, 0, 1));
      all.insert(all.end(), out.begin(), out.end());
    }
    return all;
  };
  auto roomy = must_open(in_dram("balanced"));
  const SequenceId alone = must_create(*roomy);
  play(*roomy, alone, 40);
  const std::vector<float> want = decode(*roomy, alone);
  const uint64_t own_bytes = roomy->sequence_stats(alone).value().role[1].sealed_stored_bits / 8;
  ASSERT_GT(own_bytes, uint64_t{512} << 10);

  CacheOptions options = on_nvme("balanced", uint64_t{16} << 20, IoBackend::kAuto);
  options.dram_block_bytes_max = own_bytes + own_bytes / 2;
  auto cache = must_open(options);
  const SequenceId stays = must_create(*cache), goes = must_create(*cache);
  play(*cache, stays, 40);
  play(*cache, goes, 40);
  EXPECT_EQ(cache->stats().risen_bytes, 0u);
  EXPECT_GT(cache->sequence_stats(stays).value().role[1].nvme_value_count, 0u);
  ASSERT_TRUE(cache->erase(goes).ok());
  EXPECT_EQ(decode(*cache, stays), want);
  CacheStats stats = cache->stats();
  for (int step = 30; step < 1000 && stats.tier[2].extent_count > 0; ++step) {  // a slow disk
    must_feed(*cache, stays, 40 * 64 + 23 + step, picture_prompt(0, 0, 1));
    stats = cache->stats();
  }
  EXPECT_EQ(stats.tier[static_cast<size_t>(Tier::kNvme)].extent_count, 0u);
  EXPECT_GT(stats.risen_bytes, 0u);
  for (const TierStats& tier : stats.tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
}

TEST(cache_tiers, the_store_file_is_gone_after_close) {
  CacheOptions options = on_nvme("balanced", uint64_t{16} << 20, IoBackend::kAuto);
  auto cache = must_open(options);
  EXPECT_TRUE(std::filesystem::exists(options.store_path));
  cache.reset();
  EXPECT_FALSE(std::filesystem::exists(options.store_path));
}

TEST(cache_tiers, blocks_that_may_not_be_written_any_more_are_an_error_that_says_so) {
  CacheOptions options = on_nvme("balanced", uint64_t{16} << 20, IoBackend::kAuto);
  options.dram_block_bytes_max = 256 << 10;
  options.nvme_write_bytes_per_day = 512 << 10;
  auto cache = must_open(options);
  const SequenceId sequence = must_create(*cache);
  Status status;
  int window = 0;
  for (; window < kMany && status.ok(); ++window)
    status =
        feed(*cache, sequence, 64 * window, picture_prompt(0, 64, 0), window % 8 == 7).status();
  EXPECT_EQ(status.code(), Code::kOutOfMemory);
  EXPECT_NE(status.message().find("the write budget of 524288 bytes a day has"), std::string::npos)
      << status.message();
  EXPECT_LE(cache->stats().nvme_written_bytes, uint64_t{512} << 10);
  EXPECT_GT(cache->stats().demoted_bytes, 0u);
}

}  // namespace
}  // namespace vkv
