// FileSpace against a naive model: random operations, one bool per 4 KiB. VKV_SEED repeats a run,
// VKV_STEPS makes it longer.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>
#include <utility>
#include <vector>

#include "tests/environment_number.h"
#include "transfer/file_space.h"
#include "transfer/range_set.h"

namespace vkv {
namespace {

constexpr uint64_t kUnit = 4096;
constexpr uint64_t kBegin = 1;  // in units
constexpr uint64_t kEndMax = 600;

// Which units are taken; knows nothing of holes.
struct Model {
  std::vector<bool> taken;

  bool is_free(size_t first, size_t units) const {
    if (first < kBegin || first + units > taken.size()) return false;
    const auto begin = taken.begin() + static_cast<ptrdiff_t>(first);
    return std::none_of(begin, begin + static_cast<ptrdiff_t>(units), [](bool is) { return is; });
  }

  // The smallest hole of at least `units`, the first among equals: what FileSpace promises.
  // Returns its first unit, or taken.size() where there is none.
  size_t best_fit(size_t units) const {
    size_t best = taken.size(), best_units = taken.size() + 1;
    for (size_t i = kBegin; i < taken.size();) {
      size_t end = i;
      while (end < taken.size() && !taken[end]) ++end;
      if (end - i >= units && end - i < best_units) {
        best = i;
        best_units = end - i;
      }
      i = std::max(end, i + 1);
    }
    return best;
  }
};

TEST(file_space, a_claim_is_of_whole_units_within_the_file) {
  FileSpace space(4096);
  space.extend(16 * kUnit);
  EXPECT_FALSE(space.claim(0, kUnit));  // before the beginning
  EXPECT_FALSE(space.claim(4096 + 100, kUnit));
  EXPECT_FALSE(space.claim(4096, 100));
  EXPECT_FALSE(space.claim(4096, 0));
  EXPECT_FALSE(space.claim(4096, 17 * kUnit));
  EXPECT_FALSE(space.claim(8192, UINT64_MAX / kUnit * kUnit));
  EXPECT_TRUE(space.claim(4096, 16 * kUnit));
}

TEST(file_space_fuzz, random_operations_agree_with_a_naive_model) {
  const uint64_t seed = number_from_environment("VKV_SEED", 20240607);
  const uint64_t steps = number_from_environment("VKV_STEPS", 20000);
  std::printf("VKV_SEED=%llu VKV_STEPS=%llu\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(steps));
  std::mt19937_64 random(seed);

  FileSpace space(kBegin * kUnit);
  Model model{std::vector<bool>(kBegin, true)};
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // offset, units
  for (uint64_t step = 0; step < steps; ++step) {
    if (random() % 8 == 0) {
      const uint64_t first = random() % (model.taken.size() + 4), units = 1 + random() % 8;
      const bool is_free = model.is_free(first, units);
      ASSERT_EQ(space.claim(first * kUnit, units * kUnit), is_free) << "step " << step;
      if (is_free) {
        std::fill_n(model.taken.begin() + static_cast<ptrdiff_t>(first), units, true);
        ranges.emplace_back(first * kUnit, units);
      }
    }
    if (random() % 64 == 0) {
      while (model.taken.size() > kBegin && !model.taken.back()) model.taken.pop_back();
      ASSERT_EQ(space.trim(), model.taken.size() * kUnit) << "step " << step;
    }
    // Phases that fill and phases that empty, so that all degrees of fullness are seen.
    const bool filling = step / 500 % 2 == 0;
    if (ranges.empty() || random() % 10 < (filling ? 7u : 3u)) {
      const uint64_t units = random() % 4 == 0 ? 1 + random() % 64 : 1 + random() % 6;
      const uint64_t growth_bytes = space.growth_for(units * kUnit);
      if (growth_bytes > 0) {
        ASSERT_EQ(space.allocate(units * kUnit), std::nullopt);
        if (space.end() + growth_bytes > kEndMax * kUnit) continue;
        space.extend(growth_bytes);
        model.taken.resize(space.end() / kUnit, false);
      }
      const auto offset = space.allocate(units * kUnit);
      ASSERT_TRUE(offset.has_value());
      const size_t first = *offset / kUnit;
      ASSERT_EQ(first, model.best_fit(units)) << "step " << step;
      for (size_t i = 0; i < units; ++i) model.taken[first + i] = true;
      ranges.emplace_back(*offset, units);
    } else {
      std::swap(ranges[random() % ranges.size()], ranges.back());
      const auto [offset, units] = ranges.back();
      ranges.pop_back();
      ASSERT_TRUE(space.holds(offset, units * kUnit));
      space.release(offset, units * kUnit);
      ASSERT_FALSE(space.holds(offset, units * kUnit));
      for (size_t i = 0; i < units; ++i) model.taken[offset / kUnit + i] = false;
    }
    space.check_invariants();
    const auto free_units = std::count(model.taken.begin(), model.taken.end(), false);
    ASSERT_EQ(space.free_bytes(), static_cast<uint64_t>(free_units) * kUnit);
  }
  for (const auto& [offset, units] : ranges) space.release(offset, units * kUnit);
  EXPECT_EQ(space.hole_count(), 1u);  // all joined
  EXPECT_EQ(space.used_bytes(), 0u);
}

TEST(file_space_death, releasing_what_was_not_given_stops_the_process) {
  FileSpace space(4096);
  space.extend(16 * kUnit);
  const uint64_t offset = space.allocate(2 * kUnit).value();
  EXPECT_DEATH(space.release(offset, kUnit), "check failed");
  EXPECT_DEATH(space.release(offset + kUnit, kUnit), "check failed");
  space.release(offset, 2 * kUnit);
  EXPECT_DEATH(space.release(offset, 2 * kUnit), "check failed");
}

TEST(range_set, is_the_set_of_units_that_were_added_and_not_removed) {
  std::mt19937_64 random(number_from_environment("VKV_SEED", 20241014));
  constexpr uint64_t kUnits = 64;
  RangeSet set;
  std::vector<bool> model(kUnits);
  const auto count = [&](uint64_t first, uint64_t units) {
    const auto begin = model.begin() + static_cast<ptrdiff_t>(first);
    return static_cast<uint64_t>(std::count(begin, begin + static_cast<ptrdiff_t>(units), true));
  };
  for (uint64_t step = number_from_environment("VKV_STEPS", 20000); step > 0; --step) {
    const uint64_t first = random() % kUnits, units = random() % (kUnits - first + 1);
    const bool adds = random() % 2 == 0;
    if (adds)
      set.add(first * kUnit, units * kUnit);
    else
      set.remove(first * kUnit, units * kUnit);
    for (uint64_t i = first; i < first + units; ++i) model[i] = adds;
    ASSERT_EQ(set.byte_count(), count(0, kUnits) * kUnit);
    const uint64_t from = random() % kUnits, length = random() % (kUnits - from + 1);
    ASSERT_EQ(set.count_in(from * kUnit, length * kUnit), count(from, length) * kUnit);
  }
}

}  // namespace
}  // namespace vkv
