// An attend call that the CPU shares: whatever part of the blocks each engine takes, the result is
// that of the double-precision formula over all of them, for every codec, shape and length.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <list>
#include <memory>
#include <random>
#include <string>

#include "cpu/cpu_backend.h"
#include "kernels/gpu_backend.h"
#include "tests/gpu_tokens.h"

namespace vkv {
namespace {

std::unique_ptr<Backend> make_shared_engine(const KvShape& shape) {
  auto cpu = make_cpu_backend({.threads = 2, .awake_us = 200});
  EXPECT_TRUE(cpu.ok()) << cpu.status().message();
  auto engine = make_gpu_engine({.shape = shape, .host = std::move(cpu.value())});
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(engine.value().backend) : nullptr;
}

// The tokens of one item, in the CPU's memory.
struct Case {
  Tokens tokens;
  std::vector<Record> records;
  std::vector<BlockView> views;
  std::vector<float> q, mean;
  AttendItem item;
};

class gpu_share : public testing::Test {
 protected:
  void SetUp() override {
    if (!gpu_exists()) GTEST_SKIP() << "no GPU";
  }

  static Case make_case(const KvShape& shape, BlockOptions codecs, int sealed, int open, int q_len,
                        uint32_t seed) {
    Case made;
    made.tokens = random_tokens(shape, sealed + open, seed, {.v_offset = 0.5});
    made.mean = random_queries({.q_heads = shape.kv_heads, .head_dim = shape.head_dim}, 1, seed);
    codecs.k_mean = made.mean.data();
    made.records =
        encode_all(oracle(), made.tokens, sealed, tokens_per_block(shape.head_dim), codecs);
    made.views = views_of(made.records);
    made.q = random_queries(shape, q_len, seed + 1);
    made.item = item_over(shape, q_len, made.q, {}, made.tokens.open(sealed, sealed + open));
    made.item.k_mean = made.mean.data();
    made.item.causal = true;
    return made;
  }

  // Blocks for which `of_cpu` says so are the CPU's. Largest difference of any item.
  static double run(Backend& engine, std::vector<Case>& cases,
                    const std::function<bool(size_t)>& of_cpu) {
    std::vector<AttendItem> items, host_items;
    std::vector<Partial> want;
    std::list<std::vector<BlockView>> pinned_blocks, lists;
    GpuCopies pinned(CudaMemory::kPinned);
    size_t at = 0;
    for (Case& one : cases) {
      AttendItem whole = one.item;
      whole.blocks = one.views;
      want.push_back(attend(oracle(), whole));
      AttendItem there = pinned.copy(whole, pinned_blocks.emplace_back());
      std::vector<BlockView>& mine = lists.emplace_back();
      std::vector<BlockView>& others = lists.emplace_back();
      for (const BlockView& view : pinned_blocks.back())
        (of_cpu(at++) ? others : mine).push_back(view);
      there.blocks = mine;
      items.push_back(there);
      there.blocks = others;
      there.open = {};
      there.causal = false;
      host_items.push_back(there);
    }
    // Results of both stand where the GPU can write.
    std::vector<Partial> got;
    GpuCopies results;
    for (size_t i = 0; i < cases.size(); ++i) {
      got.push_back({std::vector<float>(want[i].out.size(), NAN),
                     std::vector<float>(want[i].lse.size(), NAN)});
      items[i].out = host_items[i].out = results.copy(got[i].out.data(), got[i].out.size());
      items[i].lse = host_items[i].lse = results.copy(got[i].lse.data(), got[i].lse.size());
    }
    EXPECT_TRUE(engine.can_share(host_items));
    const Status status = engine.attend_shared(items, host_items, 0);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(engine.finish().ok());
    EXPECT_TRUE(engine.late_errors().ok());
    double worst = 0;
    for (size_t i = 0; i < cases.size(); ++i) {
      (void)cudaMemcpy(got[i].out.data(), items[i].out, got[i].out.size() * sizeof(float),
                       cudaMemcpyDefault);
      (void)cudaMemcpy(got[i].lse.data(), items[i].lse, got[i].lse.size() * sizeof(float),
                       cudaMemcpyDefault);
      const Difference found = difference(got[i], want[i]);
      worst = std::max({worst, found.out, found.lse});
    }
    return worst;
  }
};

constexpr BlockOptions kPairs[] = {
    {Codec::kF16, Codec::kF16},
    {Codec::kI8, Codec::kI8},
    {Codec::kI8, Codec::kI4},
    {Codec::kI4, Codec::kI4},
    {Codec::kI4, Codec::kI2},
    {Codec::kI2, Codec::kI1},
    {Codec::kI1, Codec::kI1},
    {.k_codec = Codec::kI4, .v_codec = Codec::kI4, .v_per_token = true},
    {.k_codec = Codec::kI2, .v_codec = Codec::kI1, .k_rotated = true}};

TEST_F(gpu_share, any_part_of_the_blocks_may_be_the_cpus) {
  std::mt19937 random(1);
  for (const int head_dim : {64, 128}) {
    for (const int group : {1, 7}) {
      const KvShape shape = {
          .layers = 1, .q_heads = 2 * group, .kv_heads = 2, .head_dim = head_dim};
      auto engine = make_shared_engine(shape);
      ASSERT_NE(engine, nullptr);
      for (const BlockOptions& codecs : kPairs) {
        for (const int q_len : {1, 3, 16}) {
          std::vector<Case> cases;
          cases.push_back(make_case(shape, codecs, 1100, q_len + 5, q_len, 700 + head_dim));
          const auto coin = [&](size_t) { return random() % 2 == 0; };
          const auto worst =
              std::max({run(*engine, cases, coin), run(*engine, cases, [](size_t) { return true; }),
                        run(*engine, cases, [](size_t at) { return at == 2; })});
          EXPECT_LE(worst, 2e-4) << name(codecs.k_codec) << "/" << name(codecs.v_codec)
                                 << ", head_dim " << head_dim << ", group " << group << ", q_len "
                                 << q_len;
        }
      }
    }
  }
}

// Plans as they come: any codecs, lengths, batches and shares, many calls behind one another.
TEST_F(gpu_share, random_plans_agree_with_the_formula) {
  const KvShape shape = {.layers = 1, .q_heads = 14, .kv_heads = 2, .head_dim = 128};
  auto engine = make_shared_engine(shape);
  ASSERT_NE(engine, nullptr);
  std::mt19937 random(20261122);
  double worst = 0;
  for (int round = 0; round < 60; ++round) {
    std::vector<Case> cases;
    const int batch = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < batch; ++i) {
      const BlockOptions& codecs = kPairs[random() % std::size(kPairs)];
      const int q_len = 1 + static_cast<int>(random() % 4);
      const int sealed = static_cast<int>(random() % 1500);
      cases.push_back(make_case(shape, codecs, sealed, q_len + static_cast<int>(random() % 40),
                                q_len, static_cast<uint32_t>(random())));
    }
    const uint32_t odds = random() % 5;
    const double found = run(*engine, cases, [&](size_t) { return random() % 4 < odds; });
    EXPECT_LE(found, 2e-4) << "round " << round;
    worst = std::max(worst, found);
  }
  std::cout << "largest difference " << worst << "\n";
}

}  // namespace
}  // namespace vkv
