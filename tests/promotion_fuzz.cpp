// promotion_fuzz.cpp: originals, promotion, forks, truncation and erasure in any order: no token is
// lost or counts twice, budgets hold, and NVMe gives the answers of DRAM, bit for bit.
// SPDX-License-Identifier: Apache-2.0
//
// The model is a list of tokens. A query of zeros weighs all tokens alike, so the answer is the
// mean of V over the tokens that count: one token too many or too few of some hundreds shows.
// VKV_SEED repeats a run, VKV_STEPS makes it longer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "runtime/base/codec.h"
#include "tests/cache_driver.h"
#include "tests/environment_number.h"

namespace vkv {
namespace {

constexpr KvShape kShape{.layers = 2, .q_heads = 2, .kv_heads = 1, .head_dim = 64};
constexpr size_t kRow = 64;  // values of K, or V, of a token and layer
constexpr int kRecent = 16;

// Both sequences that one of the model stands for, and its tokens.
struct Tracked {
  SequenceId dram{}, nvme{};
  std::vector<uint32_t> tokens;  // seeds of K and V
  std::vector<Role> roles;
};

std::vector<float> values_of(uint32_t token, int layer, uint32_t stream) {
  return synthetic(kShape, 1, layer, static_cast<int>(token), 1, stream);
}

class PromotionFuzz : public testing::Test {
 protected:
  void SetUp() override {
    PrecisionPolicy policy = precision_preset("visual2").value();
    policy.high = {Codec::kF16, Codec::kF16};
    policy.low = {Codec::kI8, Codec::kI8};
    policy.high_fraction = 0.3;
    policy.segment_headers = random_() % 2 == 0;
    CacheOptions options{.shape = kShape,
                         .precision = policy,
                         .keep_original = KeepOriginal::kDram,
                         .recent_tokens = kRecent,
                         .dram_bytes_max = uint64_t{256} << 20,
                         .extent_bytes_max = 40 << 10};
    dram_ = must_open(options);
    options.keep_original = random_() % 2 == 0 ? KeepOriginal::kNvme : KeepOriginal::kDram;
    options.dram_bytes_max = uint64_t{3} << 20;
    options.dram_block_bytes_max = 96 << 10;
    options.nvme_bytes_max = uint64_t{256} << 20;
    options.store_path = store_path("promotion");
    options.prefetch_extents = 2;
    nvme_ = must_open(options);
  }

  // Appends and attends on one cache; queries are scaled by q_scale.
  std::vector<float> step(Cache& cache, SequenceId sequence, const Tracked& tracked, size_t count,
                          bool ends_window, float q_scale) {
    std::vector<float> all;
    const size_t first = tracked.tokens.size() - count;
    for (int layer = 0; layer < kShape.layers; ++layer) {
      std::vector<float> k, v, q, out(2 * kRow * count, NAN);
      for (size_t t = first; t < tracked.tokens.size(); ++t) {
        const auto append = [&](std::vector<float>& to, const std::vector<float>& from) {
          to.insert(to.end(), from.begin(), from.end());
        };
        append(k, values_of(tracked.tokens[t], layer, 1));
        append(v, values_of(tracked.tokens[t], layer, 2));
        append(q, synthetic(kShape, 2, layer, static_cast<int>(tracked.tokens[t]), 1, 3));
      }
      for (float& value : q) value *= q_scale;
      const int token_count = static_cast<int>(count);
      const Status appended =
          cache.append(layer, {sequence, token_count, k.data(), v.data(),
                               std::span<const Role>(tracked.roles).subspan(first)});
      EXPECT_TRUE(appended.ok()) << appended.message();
      const AttendRequest request{sequence, token_count, q.data(), out.data(), ends_window};
      const Status attended = cache.attend(layer, {&request, 1});
      EXPECT_TRUE(attended.ok()) << attended.message();
      all.insert(all.end(), out.begin(), out.end());
    }
    return all;
  }

  // Plays a step on both caches, which must agree bit for bit.
  std::vector<float> play(Tracked& tracked, size_t count, Role role, bool ends_window,
                          float q_scale) {
    for (size_t i = 0; i < count; ++i) {
      tracked.tokens.push_back(next_token_++);
      tracked.roles.push_back(role);
    }
    const auto want = step(*dram_, tracked.dram, tracked, count, ends_window, q_scale);
    EXPECT_EQ(step(*nvme_, tracked.nvme, tracked, count, ends_window, q_scale), want);
    for (const Cache* cache : {dram_.get(), nvme_.get()})
      for (const TierStats& tier : cache->stats().tier) EXPECT_LE(tier.bytes_peak, tier.bytes_max);
    return want;
  }

  Tracked forked(const Tracked& parent) {
    Tracked child = parent;
    const Result<SequenceId> dram = dram_->fork(parent.dram), nvme = nvme_->fork(parent.nvme);
    EXPECT_TRUE(dram.ok()) << dram.status().message();
    EXPECT_TRUE(nvme.ok()) << nvme.status().message();
    child.dram = dram.value();
    child.nvme = nvme.value();
    return child;
  }

  void erase(const Tracked& tracked) {
    EXPECT_TRUE(dram_->erase(tracked.dram).ok());
    EXPECT_TRUE(nvme_->erase(tracked.nvme).ok());
  }

  // One decode step of a fork with a query of zeros.
  void check(const Tracked& tracked) {
    Tracked probe = forked(tracked);
    const auto out = play(probe, 1, Role::kText, false, 0.0f);
    for (int layer = 0; layer < kShape.layers; ++layer) {
      std::vector<double> mean(kRow, 0.0);
      for (const uint32_t token : probe.tokens) {
        const auto v = values_of(token, layer, 2);
        for (size_t c = 0; c < kRow; ++c)
          mean[c] += double{float_from_half(half_from_float(v[c]))} /
                     static_cast<double>(probe.tokens.size());
      }
      double error = 0;
      for (size_t c = 0; c < kRow; ++c)
        error += std::pow(double{out[static_cast<size_t>(layer) * 2 * kRow + c]} - mean[c], 2);
      error_max_ = std::max(error_max_, std::sqrt(error));
      // A token lost or doubled moves the mean by some 7 / tokens: |v| is about 7.
      EXPECT_LT(std::sqrt(error), 3.0 / static_cast<double>(probe.tokens.size()) + 2e-3)
          << probe.tokens.size() << " tokens, layer " << layer;
    }
    for (const auto& [cache, id] :
         {std::pair{dram_.get(), probe.dram}, {nvme_.get(), probe.nvme}}) {
      const SequenceStats stats = cache->sequence_stats(id).value();
      for (int role = 0; role < kRoleCount; ++role) {
        const RoleStats& of = stats.role[static_cast<size_t>(role)];
        EXPECT_EQ(of.value_count, of.token_count * kShape.layers * 2 * kRow);
        promoted_most_ = std::max(promoted_most_, of.promoted_value_count);
        EXPECT_LE(of.high_value_count, of.value_count);
      }
      const RoleStats& visual = stats.role[static_cast<size_t>(Role::kVisual)];
      EXPECT_LE(static_cast<double>(visual.promoted_value_count),
                0.3 * static_cast<double>(probe.tokens.size() * kShape.layers * 2 * kRow));
    }
    erase(probe);
  }

  std::mt19937_64 random_{number_from_environment("VKV_SEED", 20260311)};
  std::unique_ptr<Cache> dram_, nvme_;
  uint32_t next_token_ = 0;
  uint64_t promoted_most_ = 0;
  double error_max_ = 0;
};

TEST_F(PromotionFuzz, every_token_counts_once_whatever_happens) {
  const uint64_t steps = number_from_environment("VKV_STEPS", 60);
  std::printf("VKV_STEPS=%llu\n", static_cast<unsigned long long>(steps));
  std::vector<Tracked> all;
  all.reserve(4);  // references into it stay good
  for (uint64_t step = 0; step < steps && !HasFailure(); ++step) {
    const uint64_t choice = random_() % 10;
    if (all.empty() || (choice == 0 && all.size() < 4)) {
      all.push_back({.dram = must_create(*dram_), .nvme = must_create(*nvme_)});
      play(all.back(), 3, Role::kControl, false, 1.0f);
      continue;
    }
    Tracked& tracked = all[random_() % all.size()];
    if (choice <= 3) {
      play(tracked, 1 + random_() % 300, Role::kVisual, random_() % 3 != 0, 1.0f);
    } else if (choice <= 5) {
      play(tracked, 1 + random_() % 90, Role::kText, true, 1.0f);
    } else if (choice == 6) {
      play(tracked, 1, Role::kText, false, 1.0f);
    } else if (choice == 7 && all.size() < 4) {
      all.push_back(forked(tracked));
    } else if (choice == 8 && tracked.tokens.size() > kRecent) {
      const int dropped = 1 + static_cast<int>(random_() % (kRecent - 1));
      const Status status = dram_->truncate(tracked.dram, dropped);
      ASSERT_EQ(nvme_->truncate(tracked.nvme, dropped).message(), status.message());
      if (!status.ok()) continue;  // truncated before, and older tokens are encoded
      tracked.tokens.resize(tracked.tokens.size() - static_cast<size_t>(dropped));
      tracked.roles.resize(tracked.roles.size() - static_cast<size_t>(dropped));
    } else if (choice == 9 && all.size() > 1) {
      erase(tracked);
      std::swap(tracked, all.back());
      all.pop_back();
      continue;
    }
    check(tracked);
  }
  for (const Tracked& tracked : all) check(tracked);
  std::printf("largest error of a mean %.4f\n", error_max_);
  EXPECT_GT(promoted_most_, 0u);
  EXPECT_GT(nvme_->stats().tier[2].bytes_peak, 0u);
  for (const Tracked& tracked : all) erase(tracked);
  for (const Cache* cache : {dram_.get(), nvme_.get()})
    for (const TierStats& tier : cache->stats().tier) {
      EXPECT_EQ(tier.original_bytes, 0u);
      EXPECT_EQ(tier.extent_count, 0u);
    }
  EXPECT_EQ(nvme_->stats().tier[2].bytes_used, 0u);
}

}  // namespace
}  // namespace vkv
