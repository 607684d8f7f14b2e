// A sequence that was saved goes on in another cache as it would have in its own, bit by bit,
// wherever its blocks lie; what cannot be trusted is refused.
// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/cache_driver.h"
#include "tests/temporary_directory.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

constexpr KvShape kShape{.layers = 3, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
constexpr uint64_t kMiB = uint64_t{1} << 20;

class CacheRestoreTest : public testing::Test {
 protected:
  CacheOptions options(std::string_view preset) const {
    return {.shape = kShape,
            .precision = precision_preset(preset).value(),
            .recent_tokens = 16,
            .dram_bytes_max = 64 * kMiB,
            .nvme_bytes_max = 64 * kMiB,
            .store_path = directory_ / "kv.store",
            .keep_store = true,
            .extent_bytes_max = 64 << 10};
  }

  TemporaryDirectory directory_;
};

// A video in windows, and a question; returns its tokens.
int ingest(Cache& cache, SequenceId sequence, int windows) {
  int position = 0;
  for (int window = 0; window < windows; ++window, position += 64)
    must_feed(cache, sequence, position,
              picture_prompt(window == 0 ? 4 : 0, 64 - (window == 0 ? 4 : 0), 0), window % 4 == 3);
  must_feed(cache, sequence, position, picture_prompt(0, 0, 20), true);
  return position + 20;
}

// Another question, and an answer of 30 tokens: some are sealed on the way.
std::vector<float> go_on(Cache& cache, SequenceId sequence, int position) {
  std::vector<float> all = must_feed(cache, sequence, position, picture_prompt(0, 0, 40), true);
  position += 40;
  for (int step = 0; step < 30; ++step, ++position) {
    const auto more = must_feed(cache, sequence, position, picture_prompt(0, 0, 1));
    all.insert(all.end(), more.begin(), more.end());
  }
  for (const TierStats& tier : cache.stats().tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
  return all;
}

TEST_F(CacheRestoreTest, answers_are_bit_identical_for_every_preset_and_tier) {
  for (const std::string_view preset : precision_preset_names()) {
    std::vector<float> want;
    int position = 0;
    {
      auto cache = must_open(options(preset));
      const SequenceId sequence = must_create(*cache);
      position = ingest(*cache, sequence, 20);
      must(cache->save(sequence, key_of(1)));
      want = go_on(*cache, sequence, position);
    }
    for (const bool in_dram : {true, false}) {
      CacheOptions restoring = options(preset);
      if (!in_dram) restoring.dram_block_bytes_max = 16 << 10;
      auto cache = must_open(restoring);
      Result<SequenceId> sequence = cache->restore(key_of(1));
      ASSERT_TRUE(sequence.ok()) << sequence.status().message();
      const CacheStats stats = cache->stats();
      EXPECT_GT(stats.tier[in_dram ? 1 : 2].extent_count, 0u) << preset;
      EXPECT_EQ(stats.tier[2].extent_count == 0, in_dram) << preset;
      EXPECT_EQ(cache->sequence_stats(sequence.value()).value().token_count,
                static_cast<uint64_t>(position));
      EXPECT_TRUE(same(go_on(*cache, sequence.value(), position), want)) << preset << in_dram;
    }
  }
}

TEST_F(CacheRestoreTest, originals_promoted_copies_and_masks_come_back) {
  for (const KeepOriginal keep : {KeepOriginal::kDram, KeepOriginal::kNvme}) {
    CacheOptions keeping = options("visual1");
    keeping.keep_original = keep;
    keeping.store_path = directory_ / std::string(name(keep));
    std::vector<float> want;
    SequenceStats before;
    int position = 0;
    {
      auto cache = must_open(keeping);
      const SequenceId sequence = must_create(*cache);
      position = ingest(*cache, sequence, 20);
      before = cache->sequence_stats(sequence).value();
      EXPECT_GT(before.role[1].promoted_value_count, 0u);
      must(cache->save(sequence, key_of(1)));
      want = go_on(*cache, sequence, position);
    }
    auto cache = must_open(keeping);
    const SequenceId sequence = cache->restore(key_of(1)).value();
    const SequenceStats after = cache->sequence_stats(sequence).value();
    for (size_t role = 0; role < before.role.size(); ++role) {
      EXPECT_EQ(after.role[role].stored_bits, before.role[role].stored_bits);
      EXPECT_EQ(after.role[role].original_bits, before.role[role].original_bits);
      EXPECT_EQ(after.role[role].promoted_value_count, before.role[role].promoted_value_count);
    }
    EXPECT_TRUE(same(go_on(*cache, sequence, position), want));
  }
}

TEST_F(CacheRestoreTest, what_was_written_once_is_not_written_again) {
  auto cache = must_open(options("exact"));
  const SequenceId sequence = must_create(*cache);
  const int position = ingest(*cache, sequence, 60);
  must(cache->save(sequence, key_of(1)));
  const uint64_t once = cache->stats().nvme_written_bytes;
  must_feed(*cache, sequence, position, picture_prompt(0, 0, 30), true);
  must(cache->save(sequence, key_of(2)));
  EXPECT_LT(cache->stats().nvme_written_bytes, once + once / 3);  // open tokens, and what was new

  // A longer one shares what it began with, and stays when that is erased.
  must(cache->erase_saved(key_of(1)));
  must(cache->erase(sequence));
  const Result<std::vector<SavedSequence>> saved = cache->saved();
  ASSERT_EQ(saved.value().size(), 1u);
  EXPECT_EQ(saved.value()[0].key, key_of(2));
  EXPECT_EQ(saved.value()[0].token_count, static_cast<uint32_t>(position + 30));
  EXPECT_TRUE(saved.value()[0].fits_options);
  EXPECT_EQ(cache->stats().tier[2].bytes_used, saved.value()[0].byte_count);
  EXPECT_TRUE(cache->restore(key_of(2)).ok());
  EXPECT_EQ(cache->restore(key_of(1)).status().code(), Code::kNotFound);
  EXPECT_EQ(cache->erase_saved(key_of(1)).code(), Code::kNotFound);
}

TEST_F(CacheRestoreTest, a_restored_sequence_outlives_what_it_was_restored_from) {
  CacheOptions small = options("balanced");
  small.dram_block_bytes_max = 16 << 10;
  auto cache = must_open(small);
  const SequenceId sequence = must_create(*cache);
  const int position = ingest(*cache, sequence, 20);
  must(cache->save(sequence, key_of(1)));
  const SequenceId first = cache->restore(key_of(1)).value();
  const SequenceId second = cache->restore(key_of(1)).value();
  must(cache->erase_saved(key_of(1)));
  must(cache->erase(first));
  EXPECT_TRUE(same(go_on(*cache, second, position), go_on(*cache, sequence, position)));
  must(cache->erase(second));
  must(cache->erase(sequence));
  EXPECT_EQ(cache->stats().tier[2].bytes_used, 0u);
}

TEST_F(CacheRestoreTest, another_model_policy_or_cache_is_refused) {
  {
    auto cache = must_open(options("balanced"));
    const SequenceId sequence = must_create(*cache);
    ingest(*cache, sequence, 4);
    must(cache->save(sequence, key_of(1)));
  }
  CacheOptions other_policy = options("visual2"), other_shape = options("balanced");
  CacheOptions other_recent = options("balanced");
  other_shape.shape.layers = 4;
  other_recent.recent_tokens = 32;
  for (const CacheOptions& other : {other_policy, other_shape, other_recent}) {
    auto cache = must_open(other);
    EXPECT_FALSE(cache->saved().value()[0].fits_options);
    const Status status = cache->restore(key_of(1)).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("precision policy"), std::string::npos) << status.message();
  }
  CacheOptions temporary = options("balanced");
  temporary.keep_store = false;
  temporary.store_path = directory_ / "temporary";
  auto cache = must_open(temporary);
  EXPECT_EQ(cache->save(must_create(*cache), key_of(1)).code(), Code::kUnsupported);
  EXPECT_EQ(cache->restore(key_of(1)).status().code(), Code::kUnsupported);
}

TEST_F(CacheRestoreTest, every_damaged_page_of_a_saved_sequence_is_noticed) {
  const CacheOptions all = options("balanced");
  int position = 0;
  {
    auto cache = must_open(all);
    const SequenceId sequence = must_create(*cache);
    position = ingest(*cache, sequence, 6);
    must(cache->save(sequence, key_of(1)));
  }
  const int file = open(all.store_path.c_str(), O_RDWR);
  const off_t end = lseek(file, 0, SEEK_END);
  int noticed = 0, restored = 0;
  for (off_t page = 8192; page < end; page += 4096) {
    char byte = 0;
    ASSERT_EQ(pread(file, &byte, 1, page + 1000), 1);
    byte ^= 1;
    ASSERT_EQ(pwrite(file, &byte, 1, page + 1000), 1);
    auto cache = Cache::open(all);
    Status status = cache.status();
    if (status.ok()) status = cache.value()->restore(key_of(1)).status();
    if (status.ok()) {
      ++restored;  // free room, or a page of the index that is not used
    } else {
      ++noticed;
      EXPECT_EQ(status.code(), Code::kDataLoss) << status.message();
    }
    cache = Status(Code::kIo, "closed");
    byte ^= 1;
    ASSERT_EQ(pwrite(file, &byte, 1, page + 1000), 1);
  }
  close(file);
  EXPECT_GT(noticed, 20);
  auto cache = must_open(all);
  const SequenceId sequence = cache->restore(key_of(1)).value();
  must_feed(*cache, sequence, position, picture_prompt(0, 0, 1));
  const auto saved = cache->saved().value();
  // The index takes 64 pages, one of them used; the rest of what is noticed are the sequence's own.
  EXPECT_GE(static_cast<uint64_t>(noticed), saved[0].byte_count / 4096);
}

TEST_F(CacheRestoreTest, an_empty_sequence_and_layers_out_of_step) {
  auto cache = must_open(options("exact"));
  const SequenceId empty = must_create(*cache);
  must(cache->save(empty, key_of(1)));
  const SequenceId restored = cache->restore(key_of(1)).value();
  const auto roles = picture_prompt(0, 32, 0);
  EXPECT_TRUE(same(must_feed(*cache, restored, 0, roles), must_feed(*cache, empty, 0, roles)));

  const std::vector<float> values(static_cast<size_t>(kShape.kv_heads * kShape.head_dim));
  const std::vector<Role> role = {Role::kText};
  must(cache->append(0, {.sequence = empty,
                         .token_count = 1,
                         .k = values.data(),
                         .v = values.data(),
                         .roles = role}));
  const Status status = cache->save(empty, key_of(2));
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("cannot be saved: layer 1 has 32"), std::string::npos)
      << status.message();
}

// Half of a day's writes are for sequences that proved to be of use, and for blocks without room.
TEST_F(CacheRestoreTest, when_writes_are_short_what_was_asked_for_twice_is_saved) {
  CacheOptions limited = options("balanced");
  limited.nvme_write_bytes_per_day = 16 * kMiB;
  auto cache = must_open(limited);
  uint8_t number = 1;
  Status refused;
  int position = 0;
  SequenceId last{};
  for (; number < 200; ++number) {
    EXPECT_EQ(cache->restore(key_of(number)).status().code(), Code::kNotFound);
    last = must_create(*cache);
    position = ingest(*cache, last, 20);
    refused = cache->save(last, key_of(number));
    if (!refused.ok()) break;
    must(cache->erase(last));
  }
  EXPECT_EQ(refused.code(), Code::kOutOfMemory);
  EXPECT_NE(refused.message().find("asked for twice"), std::string::npos) << refused.message();
  EXPECT_EQ(cache->stats().nvme_refused_save_count, 1u);
  EXPECT_GT(cache->stats().nvme_write_bytes_left, 7 * kMiB);
  EXPECT_GT(number, 1);
  EXPECT_EQ(cache->restore(key_of(number)).status().code(), Code::kNotFound);
  must(cache->save(last, key_of(number)));  // asked for twice now
  // What goes on from a restored sequence, a fork too, is worth it the first time.
  const SequenceId restored = cache->restore(key_of(1)).value();
  const SequenceId fork = cache->fork(restored).value();
  must_feed(*cache, fork, position, picture_prompt(0, 0, 10), true);
  must(cache->save(fork, key_of(201)));
  const CacheStats stats = cache->stats();
  EXPECT_GT(stats.nvme_payload_bytes, 0u);
  EXPECT_GT(stats.write_amplification(), 1.0);
  EXPECT_LT(stats.write_amplification(), 1.2);
}

TEST_F(CacheRestoreTest, when_writes_are_short_what_is_stored_leaves_dram_first) {
  const auto written_for_second = [&](double days) {
    CacheOptions limited = options("balanced");
    limited.store_path = directory_ / ("days" + std::to_string(days));
    {
      auto probe = must_open(limited);
      const SequenceId sequence = must_create(*probe);
      ingest(*probe, sequence, 40);
      must(probe->save(sequence, key_of(1)));
      const uint64_t byte_count = probe->saved().value()[0].byte_count;
      if (days > 0)
        limited.nvme_write_bytes_per_day =
            static_cast<uint64_t>(days * static_cast<double>(byte_count));
      limited.dram_block_bytes_max = byte_count * 5 / 4;
    }
    limited.store_path += ".second";
    auto cache = must_open(limited);
    for (int i = 0; i < 2; ++i)
      EXPECT_EQ(cache->restore(key_of(1)).status().code(), Code::kNotFound);
    const SequenceId first = must_create(*cache);
    ingest(*cache, first, 40);
    must(cache->save(first, key_of(1)));
    const uint64_t before = cache->stats().nvme_written_bytes;
    ingest(*cache, must_create(*cache), 20);
    EXPECT_GT(cache->stats().demoted_bytes, 0u);
    return cache->stats().nvme_written_bytes - before;
  };
  EXPECT_GT(written_for_second(0), 0u);    // no limit: by value alone
  EXPECT_EQ(written_for_second(1.9), 0u);  // less than half is left after the save
}

}  // namespace
}  // namespace vkv
