// kv_need_test.cpp: a sequence never takes more than was set aside for it, whatever the policy, and
// not too little of it either; what is set aside together fits the budgets.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/kv_need.h"

#include <gtest/gtest.h>

#include "tests/cache_driver.h"

namespace vkv {
namespace {

constexpr int kWindow = 256;

struct Case {
  const char* preset;
  KvShape shape;
  KeepOriginal keep = KeepOriginal::kNone;
};

// Feeds windows of a prompt.
void feed_prompt(Cache& cache, SequenceId sequence, int first, std::vector<Role> roles) {
  for (size_t at = 0; at < roles.size(); at += kWindow) {
    const size_t count = std::min<size_t>(kWindow, roles.size() - at);
    must_feed(cache, sequence, first + static_cast<int>(at),
              {roles.begin() + static_cast<ptrdiff_t>(at),
               roles.begin() + static_cast<ptrdiff_t>(at + count)},
              true);
  }
}

TEST(kv_need, what_is_set_aside_is_enough_and_not_much_too_much) {
  const KvShape small = {.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 32};
  const KvShape wide = {.layers = 3, .q_heads = 4, .kv_heads = 2, .head_dim = 128};
  const Case cases[] = {{"exact", small},   {"balanced", wide},
                        {"visual2", small}, {"visual2", wide, KeepOriginal::kDram},
                        {"onebit", wide},   {"onebit", small, KeepOriginal::kDram}};
  for (const Case& of : cases) {
    const auto cache = must_open({.shape = of.shape,
                                  .precision = precision_preset(of.preset).value(),
                                  .keep_original = of.keep,
                                  .recent_tokens = 32,
                                  .dram_bytes_max = uint64_t{64} << 20,
                                  .threads = 2});
    const auto used = [&] {
      return cache->stats().tier[static_cast<size_t>(Tier::kDram)].bytes_used;
    };
    const uint64_t base = used();
    const int visual = 900, question = 40, answer = 300;
    const SequenceId prefix = must_create(*cache);
    feed_prompt(*cache, prefix, 0, picture_prompt(1, visual, 0));
    const KvNeed prefix_need =
        sequence_need(cache->options(), {.visual = visual, .other = 1}, kWindow);
    const uint64_t prefix_used = used() - base;
    EXPECT_LE(prefix_used, prefix_need.open_bytes + prefix_need.record_bytes) << of.preset;

    KvNeed all = prefix_need;
    for (int i = 0; i < 2; ++i) {
      const SequenceId fork = cache->fork(prefix).value();
      feed_prompt(*cache, fork, visual + 1, picture_prompt(0, 0, question));
      for (int t = 0; t < answer; ++t)
        must_feed(*cache, fork, visual + 1 + question + t, {Role::kText});
      all += sequence_need(cache->options(),
                           {.other = question, .generated = answer, .forked = visual + 1}, kWindow);
      EXPECT_LE(used() - base, all.open_bytes + all.record_bytes) << of.preset << " fork " << i;
    }
    const double ratio =
        static_cast<double>(all.open_bytes + all.record_bytes) / static_cast<double>(used() - base);
    std::printf("%s %d: %.2f times what is taken\n", of.preset, of.shape.head_dim, ratio);
    EXPECT_LT(ratio, 4) << of.preset;
  }
}

TEST(kv_need, budgets_of_tiers_add_up) {
  CacheOptions options = {.shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32},
                          .dram_bytes_max = 10 << 20,
                          .nvme_bytes_max = 40 << 20,
                          .extent_bytes_max = 4096};
  CacheStats used;
  used.tier[static_cast<size_t>(Tier::kDram)].bytes_used = 1 << 20;
  const KvBudget budget(options, used, 16, 0.5);
  EXPECT_TRUE(budget.fits({8 << 20, 20 << 20}));
  EXPECT_FALSE(budget.fits({10 << 20, 0}));        // open tokens are in DRAM alone
  EXPECT_FALSE(budget.fits({8 << 20, 22 << 20}));  // half of NVMe is for what is kept
  options.dram_block_bytes_max = 1 << 20;
  EXPECT_FALSE(KvBudget(options, used, 16, 0.5).fits({1 << 20, 22 << 20}));
}

}  // namespace
}  // namespace vkv
