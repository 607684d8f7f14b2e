// gpu_random_steps_test.cpp: 10,000 random steps of many sequences, with windows, drafts, forks,
// truncations and erasures between them: a cache with no room in HBM answers with the bits of one
// where everything lies there, one that shares with the CPU within the bound of both engines, and
// what is erased leaves nothing behind.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "tests/gpu_cache_driver.h"
#include "tests/temporary_directory.h"

namespace vkv {
namespace {

constexpr size_t kSequencesMax = 6;
constexpr int kTokensMax = 900;  // of a sequence, which is then erased
constexpr uint64_t kMiB = uint64_t{1} << 20;

// A sequence in all caches, under each one's own name.
struct Live {
  std::vector<SequenceId> ids;
  int position = 0;
  int truncatable = 0;  // newest tokens that are surely open
  uint32_t seed = 0;
};

class GpuRandomSteps : public GpuCache {
 protected:
  // The first is what the others are compared with.
  void add(const CacheOptions& options, double tolerance) {
    auto cache = must_open(options);
    ASSERT_NE(cache, nullptr);
    empty_.push_back(cache->stats());
    caches_.push_back(std::move(cache));
    tolerances_.push_back(tolerance);
  }

  int below(int count) { return static_cast<int>(random_() % static_cast<uint32_t>(count)); }

  void begin() {
    Live live = {.seed = 10 * static_cast<uint32_t>(below(20))};
    for (auto& cache : caches_) live.ids.push_back(must_create(*cache));
    live_.push_back(std::move(live));
    const std::vector<Role> roles = picture_prompt(below(3), 100 + below(300), 1 + below(20));
    feed_all({{live_.size() - 1, roles}}, /*ends_window=*/true);
  }

  void fork(size_t index) {
    Live live = live_[index];
    for (size_t c = 0; c < caches_.size(); ++c) {
      const auto forked = caches_[c]->fork(live.ids[c]);
      ASSERT_TRUE(forked.ok()) << forked.status().message();
      live.ids[c] = forked.value();
    }
    live_.push_back(std::move(live));
  }

  void erase(size_t index) {
    for (size_t c = 0; c < caches_.size(); ++c) {
      const Status erased = caches_[c]->erase(live_[index].ids[c]);
      ASSERT_TRUE(erased.ok()) << erased.message();
    }
    live_.erase(live_.begin() + static_cast<ptrdiff_t>(index));
  }

  void truncate(size_t index, int count) {
    for (size_t c = 0; c < caches_.size(); ++c) {
      const Status cut = caches_[c]->truncate(live_[index].ids[c], count);
      ASSERT_TRUE(cut.ok()) << cut.message();
    }
    live_[index].position -= count;
    live_[index].truncatable -= count;
    live_[index].seed += 1000;  // other tokens come in their place
  }

  struct Feed {
    size_t index;
    std::vector<Role> roles;
  };

  void feed_all(const std::vector<Feed>& feeds, bool ends_window) {
    std::vector<float> want;
    for (size_t c = 0; c < caches_.size(); ++c) {
      std::vector<Turn> turns;
      for (const Feed& feed : feeds) {
        const Live& live = live_[feed.index];
        turns.push_back({live.ids[c], live.position, feed.roles, ends_window, live.seed});
      }
      std::vector<float> got = must_step(*caches_[c], turns, Values::kPlain);
      ASSERT_FALSE(::testing::Test::HasFailure()) << "cache " << c << ", step " << steps_;
      if (c == 0) {
        want = std::move(got);
      } else if (tolerances_[c] == 0) {
        ASSERT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0)
            << "cache " << c << ", step " << steps_;
      } else {
        ASSERT_LT(difference(got, want), tolerances_[c]) << "cache " << c << ", step " << steps_;
      }
    }
    for (const Feed& feed : feeds) {
      Live& live = live_[feed.index];
      live.position += static_cast<int>(feed.roles.size());
      const auto fed = static_cast<int>(feed.roles.size());
      live.truncatable = ends_window ? 0 : std::min(live.truncatable + fed, 32);
    }
    ++steps_;
  }

  void random_act() {
    const int what = below(100);
    const size_t index =
        live_.empty() ? 0 : static_cast<size_t>(below(static_cast<int>(live_.size())));
    if (live_.empty() || (what < 3 && live_.size() < kSequencesMax)) return begin();
    if (what < 6 && live_.size() < kSequencesMax) return fork(index);
    if (what < 8 || live_[index].position > kTokensMax) return erase(index);
    if (what < 11) return feed_all({{index, picture_prompt(0, below(200), 1 + below(40))}}, true);
    if (what < 14 && live_[index].truncatable > 0)
      return truncate(index, 1 + below(std::min(live_[index].truncatable, 4)));
    std::vector<Feed> feeds;  // a step of some of them, or a draft of one
    if (what < 22) {
      feeds.push_back({index, picture_prompt(0, 0, 2 + below(4))});
    } else {
      for (size_t i = 0; i < live_.size(); ++i)
        if (i == index || below(2) == 0) feeds.push_back({i, picture_prompt(0, 0, 1)});
    }
    feed_all(feeds, false);
  }

  void play(int step_count) {
    while (steps_ < step_count && !HasFailure()) random_act();
    while (!live_.empty()) erase(live_.size() - 1);
    for (size_t c = 0; c < caches_.size(); ++c) {
      const Status settled = caches_[c]->settle();
      EXPECT_TRUE(settled.ok()) << settled.message();
      const CacheStats stats = caches_[c]->stats();
      EXPECT_EQ(stats.sequence_count, 0u);
      for (size_t tier = 0; tier < stats.tier.size(); ++tier) {
        EXPECT_EQ(stats.tier[tier].extent_count, 0u) << "cache " << c << ", tier " << tier;
        EXPECT_LE(stats.tier[tier].bytes_peak, stats.tier[tier].bytes_max) << c << " " << tier;
      }
    }
  }

  std::mt19937 random_{17};
  std::vector<std::unique_ptr<Cache>> caches_;
  std::vector<CacheStats> empty_;
  std::vector<double> tolerances_;
  std::vector<Live> live_;
  int steps_ = 0;
};

// VKV_STEPS: how many; 10,000 take a minute, fewer are for sanitizers.
TEST_F(GpuRandomSteps, no_plan_and_no_place_changes_an_answer) {
  const char* const asked = std::getenv("VKV_STEPS");
  const int step_count = asked != nullptr ? std::atoi(asked) : 10000;
  const TemporaryDirectory directory;
  const CacheOptions roomy = on_gpu(on_cpu("balanced"));
  CacheOptions none = roomy;
  none.hbm_block_bytes_max = 0;
  none.hbm_ahead_bytes = 96 << 10;  // less than some layers have
  CacheOptions shared = none;
  shared.host_share = 0.5;  // by times the CPU would get nothing of so little
  CacheOptions on_disk = none;
  on_disk.dram_block_bytes_max = kMiB / 2;
  on_disk.nvme_bytes_max = 256 * kMiB;
  on_disk.store_path = directory / "store";
  add(roomy, 0);
  add(none, 0);
  add(shared, ceiling(Values::kPlain, *caches_[0]));
  add(on_disk, 0);
  ASSERT_FALSE(HasFailure());
  play(step_count);
  std::cout << steps_ << " steps; MiB: " << caches_[1]->stats().ahead_read_bytes / kMiB
            << " read ahead, " << caches_[2]->stats().host_read_bytes / kMiB << " by the CPU, "
            << caches_[3]->stats().nvme_read_bytes / kMiB << " from NVMe\n";
  EXPECT_GT(caches_[1]->stats().ahead_read_bytes, 0u);
  EXPECT_GT(caches_[2]->stats().host_read_bytes, 0u);
  if (step_count >= 1000) {
    EXPECT_GT(caches_[3]->stats().nvme_read_bytes, 0u);
  }
}

}  // namespace
}  // namespace vkv
