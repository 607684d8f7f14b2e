// attend_comparison.h: attention by the fast engine and by the formula, for the tests of cpu/.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "runtime/base/lse.h"
#include "tests/random_tokens.h"

namespace vkv {

// Ends a program where VKV_CPU names an engine that this CPU cannot run, as main.cpp ends one whose
// tests were all skipped.
class EngineCanRun : public testing::Environment {
 public:
  void SetUp() override {
    const Status status = make_cpu_backend({}).status();
    if (status.code() != Code::kUnsupported) return;
    std::printf("skipped: %s\n", status.message().c_str());
    std::exit(77);  // SKIP_RETURN_CODE in CMakeLists.txt
  }
};
inline const auto* const kEngineCanRun = testing::AddGlobalTestEnvironment(new EngineCanRun);

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Forced by VKV_CPU, or what would be chosen.
inline Backend& engine() {
  static const std::unique_ptr<Backend> backend = make_engine("");
  return *backend;
}

inline Backend& oracle() {
  static const std::unique_ptr<Backend> backend = make_engine("reference");
  return *backend;
}

inline std::vector<float> random_queries(const KvShape& shape, int q_len, uint32_t seed,
                                         float sigma = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> q(static_cast<size_t>(q_len) * shape.q_heads * shape.head_dim);
  for (float& x : q) x = sigma * normal(random);
  return q;
}

struct Partial {
  std::vector<float> out;  // [q_len, q_heads, head_dim]
  std::vector<float> lse;  // [q_len, q_heads]
};

// Results start as NaN: what is not written shows.
inline Partial attend(Backend& backend, AttendItem item) {
  const size_t rows = static_cast<size_t>(item.q_len) * item.shape.q_heads;
  Partial partial = {std::vector<float>(rows * item.shape.head_dim, NAN),
                     std::vector<float>(rows, NAN)};
  item.out = partial.out.data();
  item.lse = partial.lse.data();
  const Status status = backend.attend({&item, 1});
  EXPECT_TRUE(status.ok()) << status.message();
  return partial;
}

// Largest difference of out relative to the largest |out| expected, and of lse to 1 + |lse|.
struct Difference {
  double out = 0, lse = 0;
};

inline Difference difference(const Partial& got, const Partial& expected) {
  double largest = 0;
  Difference result;
  for (const float x : expected.out) largest = std::max(largest, std::abs(double{x}));
  for (size_t i = 0; i < got.out.size(); ++i) {
    const double error = std::abs(double{got.out[i]} - double{expected.out[i]});
    result.out = error <= result.out * largest ? result.out : error / largest;  // NaN stays
  }
  for (size_t i = 0; i < got.lse.size(); ++i) {
    if (got.lse[i] == expected.lse[i]) continue;  // both may be -inf
    const double error = std::abs(double{got.lse[i]} - double{expected.lse[i]});
    const double relative = error / (1 + std::abs(double{expected.lse[i]}));
    result.lse = relative <= result.lse ? result.lse : relative;
  }
  return result;
}

inline void expect_agreement(const AttendItem& item, double tolerance = 2e-4) {
  const Difference found = difference(attend(engine(), item), attend(oracle(), item));
  EXPECT_LE(found.out, tolerance);
  EXPECT_LE(found.lse, tolerance);
}

inline AttendItem item_over(const KvShape& shape, int q_len, const std::vector<float>& q,
                            std::span<const BlockView> blocks, const OpenTokens& open = {}) {
  return {.shape = shape,
          .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
          .q_len = q_len,
          .q = q.data(),
          .blocks = blocks,
          .open = open};
}

// out and lse over the union of two sets of tokens, into `merged`.
inline void merge(const Partial& partial, Partial& merged) {
  const size_t head_dim = merged.out.size() / merged.lse.size();
  for (size_t row = 0; row < merged.lse.size(); ++row) {
    const MergeWeights weights = merge_weights(merged.lse[row], partial.lse[row]);
    for (size_t c = row * head_dim; c < (row + 1) * head_dim; ++c)
      merged.out[c] = weights.a * merged.out[c] + weights.b * partial.out[c];
    merged.lse[row] = weights.lse;
  }
}

}  // namespace vkv
