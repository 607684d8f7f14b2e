// live_mask_test.cpp: tokens that a live mask leaves out get weight 0 exactly, in every engine and
// for every codec.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/random_tokens.h"

namespace vkv {
namespace {

struct Partial {
  std::vector<float> out, lse;
};

Partial attend(Backend& backend, const KvShape& shape, const std::vector<float>& q, int q_len,
               std::span<const BlockView> blocks) {
  const size_t rows = static_cast<size_t>(q_len) * shape.q_heads;
  Partial partial = {std::vector<float>(rows * shape.head_dim, NAN), std::vector<float>(rows, NAN)};
  const AttendItem item = {.shape = shape,
                           .scale = 0.125f,
                           .q_len = q_len,
                           .q = q.data(),
                           .blocks = blocks,
                           .out = partial.out.data(),
                           .lse = partial.lse.data()};
  const Status status = backend.attend({&item, 1});
  EXPECT_TRUE(status.ok()) << status.message();
  return partial;
}

std::vector<float> queries(const KvShape& shape, int q_len) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> q(static_cast<size_t>(q_len) * shape.q_heads * shape.head_dim);
  for (float& x : q) x = normal(random);
  return q;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i)
    largest = std::isfinite(a[i]) && std::isfinite(b[i])
                  ? std::max(largest, std::fabs(double{a[i]} - double{b[i]}))
                  : (a[i] == b[i] ? largest : INFINITY);
  return largest;
}

std::vector<uint32_t> random_mask(int tokens, uint32_t seed, int live_of_ten) {
  std::mt19937 random(seed);
  std::vector<uint32_t> words(static_cast<size_t>(padded_tokens(tokens)) / 32, 0);
  for (int t = 0; t < tokens; ++t)
    if (static_cast<int>(random() % 10) < live_of_ten) words[t / 32] |= 1u << t % 32;
  return words;
}

// 16-bit records have no statistics: leaving tokens out of the record is the truth.
TEST(live_mask, a_masked_token_is_as_if_it_were_not_there) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const int count = 231, q_len = 5;
  const Tokens tokens = random_tokens(shape, count, 3);
  const auto q = queries(shape, q_len);
  const std::vector<uint32_t> mask = random_mask(count, 9, 4);
  std::vector<uint32_t> live_rows;
  for (uint32_t t = 0; t < static_cast<uint32_t>(count); ++t)
    if (mask[t / 32] >> t % 32 & 1u) live_rows.push_back(t);
  for (const char* engine : {"reference", "onednn"}) {
    const auto backend = make_engine(engine);
    const BlockOptions options = {.k_codec = Codec::kF16, .v_codec = Codec::kF16};
    Record whole = encode_rows(*backend, tokens, row_range(0, count), options);
    const Record live = encode_rows(*backend, tokens, live_rows, options);
    whole.view.live = mask.data();
    const Partial got = attend(*backend, shape, q, q_len, {&whole.view, 1});
    const Partial want = attend(*backend, shape, q, q_len, {&live.view, 1});
    EXPECT_LT(largest_difference(got.out, want.out), 2e-6) << engine;
    EXPECT_LT(largest_difference(got.lse, want.lse), 2e-6) << engine;
  }
}

TEST(live_mask, engines_agree_on_masked_blocks_of_every_codec) {
  const auto engine = make_engine("onednn"), oracle = make_engine("reference");
  const BlockOptions variants[] = {
      {.k_codec = Codec::kF16, .v_codec = Codec::kF16},
      {.k_codec = Codec::kI8, .v_codec = Codec::kI8},
      {.k_codec = Codec::kI4, .v_codec = Codec::kI2},
      {.k_codec = Codec::kI2, .v_codec = Codec::kI1},
      {.k_codec = Codec::kI1, .v_codec = Codec::kI1},
      {.k_codec = Codec::kI8, .v_codec = Codec::kI4, .v_per_token = true}};
  for (const BlockOptions& options : variants)
    for (const int head_dim : {64, 128})
      for (const int q_len : {1, 9}) {
        const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = head_dim};
        const int block_tokens = tokens_per_block(head_dim), count = 2 * block_tokens + 37;
        const Tokens tokens = random_tokens(shape, count, 21);
        const auto records = encode_all(*oracle, tokens, count, block_tokens, options);
        std::vector<BlockView> views = views_of(records);
        const auto sparse = random_mask(block_tokens, 1, 1), dense = random_mask(37, 2, 9);
        views[0].live = sparse.data();
        views[2].live = dense.data();
        const auto q = queries(shape, q_len);
        const Partial got = attend(*engine, shape, q, q_len, views);
        const Partial want = attend(*oracle, shape, q, q_len, views);
        double largest = 0;
        for (const float x : want.out) largest = std::max(largest, std::fabs(double{x}));
        EXPECT_LT(largest_difference(got.out, want.out), 2e-4 * largest)
            << name(options.k_codec) << "/" << name(options.v_codec) << " head_dim " << head_dim
            << " q_len " << q_len;
        EXPECT_LT(largest_difference(got.lse, want.lse), 2e-4);
      }
}

TEST(live_mask, a_dead_token_has_no_weight_however_large_its_score) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  const int count = 96;
  Tokens tokens = random_tokens(shape, count, 4);
  for (size_t c = 0; c < 64; ++c) {  // token 40: the best match by far, with a V like no other
    tokens.k[40 * 64 + c] = half_from_float(100.0f);
    tokens.v[40 * 64 + c] = half_from_float(10000.0f);
  }
  const std::vector<float> q(64, 1.0f);
  std::vector<uint32_t> mask(3, ~0u);
  mask[1] &= ~(1u << 8);
  for (const char* engine : {"reference", "onednn"})
    for (const Codec codec : {Codec::kF16, Codec::kI8, Codec::kI4}) {
      const auto backend = make_engine(engine);
      Record record = encode_rows(*backend, tokens, row_range(0, count),
                                  {.k_codec = codec, .v_codec = Codec::kF16});
      record.view.live = mask.data();
      for (const float x : attend(*backend, shape, q, 1, {&record.view, 1}).out)
        EXPECT_LT(std::fabs(x), 10.0f) << engine << " " << name(codec);
    }
}

TEST(live_mask, tiles_and_blocks_without_a_live_token_are_empty_sets) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 64};
  const int count = 200;  // two tiles
  const Tokens tokens = random_tokens(shape, count, 6);
  const auto q = queries(shape, 3);
  std::vector<uint32_t> none(7, 0), last(7, 0);
  last[6] = 1u << 7;  // token 199
  for (const char* engine : {"reference", "onednn"})
    for (const Codec codec : {Codec::kF16, Codec::kI8, Codec::kI1}) {
      const auto backend = make_engine(engine);
      Record record =
          encode_rows(*backend, tokens, row_range(0, count), {.k_codec = codec, .v_codec = codec});
      record.view.live = none.data();
      const Partial empty = attend(*backend, shape, q, 3, {&record.view, 1});
      for (const float x : empty.out) EXPECT_EQ(x, 0.0f) << engine;
      for (const float x : empty.lse) EXPECT_EQ(x, -std::numeric_limits<float>::infinity());
      record.view.live = last.data();
      for (const float x : attend(*backend, shape, q, 3, {&record.view, 1}).lse)
        EXPECT_TRUE(std::isfinite(x)) << engine << " " << name(codec);
    }
}

}  // namespace
}  // namespace vkv
