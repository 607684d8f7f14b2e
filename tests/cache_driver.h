// cache_driver.h: plays a model for tests: K, V and queries that depend only on layer and position.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "vkv/cache.h"

namespace vkv {

// Values with what makes real KV hard: an offset in some channels, some of them much wider.
inline std::vector<float> synthetic(const KvShape& shape, int heads, int layer, int first,
                                    int count, uint32_t stream) {
  std::vector<float> values;
  for (int t = first; t < first + count; ++t) {
    const uint64_t seed = (uint64_t{stream} << 40) + static_cast<uint64_t>(layer * 1000003 + t);
    std::minstd_rand random(static_cast<uint32_t>(seed * 0x9e3779b97f4a7c15u >> 32));
    random.discard(2);
    std::normal_distribution<float> normal;
    for (int i = 0; i < heads * shape.head_dim; ++i) {
      const int channel = i % shape.head_dim;
      const float width = channel % 16 == 3 ? 3.0f : 0.5f;
      const float offset = stream == 1 && channel % 8 == 5 ? 4.0f : 0.0f;
      values.push_back(offset + width * normal(random));
    }
  }
  return values;
}

// `visual` tokens in the middle, as a picture between a prompt's head and its question.
inline std::vector<Role> picture_prompt(int control, int visual, int text) {
  std::vector<Role> roles(static_cast<size_t>(control), Role::kControl);
  roles.insert(roles.end(), static_cast<size_t>(visual), Role::kVisual);
  roles.insert(roles.end(), static_cast<size_t>(text), Role::kText);
  return roles;
}

inline SequenceKey key_of(uint8_t number) {
  SequenceKey key;
  key.bytes.fill(number);
  return key;
}

// The same bits.
inline bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline void must(const Status& status) { ASSERT_TRUE(status.ok()) << status.message(); }

inline std::unique_ptr<Cache> must_open(const CacheOptions& options) {
  Result<std::unique_ptr<Cache>> cache = Cache::open(options);
  EXPECT_TRUE(cache.ok()) << cache.status().message();
  return cache.ok() ? std::move(cache.value()) : nullptr;
}

inline SequenceId must_create(Cache& cache) {
  Result<SequenceId> sequence = cache.create_sequence();
  EXPECT_TRUE(sequence.ok()) << sequence.status().message();
  return sequence.value();
}

// Appends tokens [first, first + roles.size()) to every layer and attends with their queries.
// Returns the outputs of all layers, one after another.
inline Result<std::vector<float>> feed(Cache& cache, SequenceId sequence, int first,
                                       const std::vector<Role>& roles, bool ends_window = false,
                                       uint32_t seed = 0) {
  const KvShape shape = cache.options().shape;
  const int count = static_cast<int>(roles.size());
  std::vector<float> all;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const std::vector<float> k = synthetic(shape, shape.kv_heads, layer, first, count, 1 + seed);
    const std::vector<float> v = synthetic(shape, shape.kv_heads, layer, first, count, 2 + seed);
    const std::vector<float> q = synthetic(shape, shape.q_heads, layer, first, count, 3 + seed);
    std::vector<float> out(q.size(), NAN);
    VKV_TRY(cache.append(layer, {.sequence = sequence,
                                 .token_count = count,
                                 .k = k.data(),
                                 .v = v.data(),
                                 .roles = roles}));
    const AttendRequest request{.sequence = sequence,
                                .q_len = count,
                                .q = q.data(),
                                .out = out.data(),
                                .ends_window = ends_window};
    VKV_TRY(cache.attend(layer, {&request, 1}));
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

inline std::vector<float> must_feed(Cache& cache, SequenceId sequence, int first,
                                    const std::vector<Role>& roles, bool ends_window = false,
                                    uint32_t seed = 0) {
  Result<std::vector<float>> out = feed(cache, sequence, first, roles, ends_window, seed);
  EXPECT_TRUE(out.ok()) << out.status().message();
  return out.ok() ? out.value() : std::vector<float>();
}

// A file name of its own in the temporary directory; the store removes the file.
inline std::string store_path(const std::string& test) {
  return (std::filesystem::temp_directory_path() /
          ("vkv_" + test + "_" + std::to_string(std::random_device{}()) + ".store"))
      .string();
}

}  // namespace vkv
