// gpu_attend_test: attention on the GPU agrees with the double-precision formula, for every codec,
// shape and length, and does not depend on where the bytes lie.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "tests/gpu_tokens.h"

namespace vkv {
namespace {

struct Pair {
  Codec k, v;
};
constexpr Pair kPairs[] = {{Codec::kF16, Codec::kF16}, {Codec::kBf16, Codec::kBf16},
                           {Codec::kI8, Codec::kI8},   {Codec::kI8, Codec::kI4},
                           {Codec::kI4, Codec::kI4},   {Codec::kI4, Codec::kI2},
                           {Codec::kI2, Codec::kI2},   {Codec::kI2, Codec::kI1},
                           {Codec::kI1, Codec::kI1},   {Codec::kF16, Codec::kI8}};

std::string words(const Pair& pair) {
  return std::string(name(pair.k)) + "/" + std::string(name(pair.v));
}

class gpu_attend : public testing::Test {
 protected:
  void SetUp() override {
    if (!gpu_exists()) GTEST_SKIP() << "no GPU";
  }
};

TEST_F(gpu_attend, codes_agree_with_the_formula_for_every_length) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 128};
  for (const Pair pair : kPairs) {
    const Codec open_codec = pair.k == Codec::kBf16 ? Codec::kBf16 : Codec::kF16;
    const Tokens tokens = random_tokens(shape, 129, 101, {.v_offset = 0.5}, open_codec);
    const std::vector<float> q = random_queries(shape, 1, 102);
    for (const int count : {1, 2, 31, 33, 77, 127, 128, 129}) {
      SCOPED_TRACE(words(pair) + ", " + std::to_string(count) + " tokens");
      const std::vector<Record> records =
          encode_all(oracle(), tokens, count, 128, {.k_codec = pair.k, .v_codec = pair.v});
      const std::vector<BlockView> views = views_of(records);
      expect_gpu_agreement(item_over(shape, 1, q, views));
    }
  }
}

TEST_F(gpu_attend, codes_agree_with_the_formula_for_every_head_dim_and_group) {
  for (const int head_dim : {8, 64, 80, 96, 128, 256}) {
    KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = head_dim};
    const int block = tokens_per_block(head_dim), most = block + 37;
    const Tokens tokens = random_tokens(shape, most, 103, {.k_offset = 1});
    for (const Pair pair : kPairs) {
      if (pair.k == Codec::kBf16) continue;
      for (const int count : {1, block - 1, block, block + 1, most}) {
        const std::vector<Record> records =
            encode_all(oracle(), tokens, count, block, {.k_codec = pair.k, .v_codec = pair.v});
        const std::vector<BlockView> views = views_of(records);
        for (const int group : {1, 2, 4, 5, 7, 8, 16}) {
          if (count != most && group % 3 != 1) continue;
          SCOPED_TRACE(words(pair) + ", head_dim " + std::to_string(head_dim) + ", " +
                       std::to_string(count) + " tokens, group " + std::to_string(group));
          shape.q_heads = 2 * group;
          expect_gpu_agreement(item_over(shape, 1, random_queries(shape, 1, 104), views));
        }
      }
    }
  }
}

// One token whose key is 1 in one channel: its score is that channel of the query.
TEST_F(gpu_attend, every_channel_of_a_key_meets_its_own_of_the_query) {
  for (const int head_dim : {8, 24, 32, 64, 80, 96, 128, 256}) {
    for (const int group : {1, 4, 5, 8}) {
      const KvShape shape = {.layers = 1, .q_heads = group, .kv_heads = 1, .head_dim = head_dim};
      const std::vector<float> q = random_queries(shape, 1, 180);
      for (const Codec codec : {Codec::kF16, Codec::kBf16}) {
        std::string wrong;
        for (int channel = 0; channel < head_dim; ++channel) {
          Tokens tokens = random_tokens(shape, 1, 181, {}, codec);
          for (int c = 0; c < head_dim; ++c)
            tokens.k[static_cast<size_t>(c)] = float_to_16_bit(codec, c == channel ? 1.0f : 0.0f);
          const AttendItem open = item_over(shape, 1, q, {}, tokens.open());
          const Record record =
              encode_rows(oracle(), tokens, row_range(0, 1), {.k_codec = codec, .v_codec = codec});
          const AttendItem sealed = item_over(shape, 1, q, {&record.view, 1});
          const AttendItem items[] = {open, sealed};
          const std::vector<Partial> partials = attend_on_gpu(items);
          for (int head = 0; head < group; ++head)
            for (const Partial& partial : partials)
              if (std::abs(partial.lse[head] - open.scale * q[head * head_dim + channel]) > 1e-5)
                wrong += " " + std::to_string(channel) + "/" + std::to_string(head);
        }
        EXPECT_EQ(wrong, "") << "channel/head of head_dim " << head_dim << ", group " << group
                             << ", " << name(codec);
      }
    }
  }
}

TEST_F(gpu_attend, several_queries_see_blocks_whole_and_open_tokens_causally) {
  const struct {
    int head_dim, q_len, open_count;
  } cases[] = {{64, 1, 1},    {64, 1, 129},   {64, 3, 3},     {64, 3, 133}, {64, 16, 16},
               {64, 16, 200}, {64, 100, 100}, {64, 100, 600}, {80, 3, 4},   {80, 16, 130},
               {128, 40, 41}, {128, 1, 300},  {256, 5, 140}};
  for (const auto& [head_dim, q_len, open_count] : cases) {
    for (const Codec codec : {Codec::kF16, Codec::kBf16}) {
      const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = head_dim};
      const int block = tokens_per_block(head_dim), sealed = block + 9;
      const Tokens tokens = random_tokens(shape, sealed + open_count, 105, {}, codec);
      const std::vector<float> q = random_queries(shape, q_len, 106);
      const std::vector<Record> records =
          encode_all(oracle(), tokens, sealed, block, {Codec::kI4, Codec::kI2});
      const std::vector<BlockView> views = views_of(records);
      AttendItem item = item_over(shape, q_len, q, views, tokens.open(sealed, tokens.count));
      for (const bool causal : {true, false}) {
        SCOPED_TRACE(testing::Message()
                     << "head_dim " << head_dim << ", q_len " << q_len << ", open " << open_count
                     << ", causal " << causal << ", " << name(codec));
        item.causal = causal;
        item.blocks = views;
        expect_gpu_agreement(item);
        item.blocks = {};
        expect_gpu_agreement(item, 1e-4);
      }
    }
  }
}

TEST_F(gpu_attend, no_token_gives_zero_and_minus_infinity) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const std::vector<float> q = random_queries(shape, 2, 109);
  const AttendItem item = item_over(shape, 2, q, {});
  const Partial partial = attend_on_gpu({&item, 1})[0];
  for (const float x : partial.out) EXPECT_EQ(x, 0.0f);
  for (const float x : partial.lse) EXPECT_EQ(x, -kInfinity);
  const AttendItem nothing = {.shape = shape};
  (void)attend_on_gpu({&nothing, 1});
  (void)attend_on_gpu({});
}

TEST_F(gpu_attend, a_mean_shifts_every_kind_of_block_alike) {
  for (const float offset : {1.0f, 100.0f, 1000.0f}) {
    for (const Codec codec : {Codec::kF16, Codec::kBf16}) {
      SCOPED_TRACE(testing::Message() << "offset " << offset << ", " << name(codec));
      const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
      const Tokens tokens = random_tokens(shape, 700, 110, {.k_offset = offset}, codec);
      std::vector<float> mean(128);
      ASSERT_TRUE(oracle().mean_key(shape, tokens.open(), row_range(0, 256), mean.data()).ok());
      const std::vector<float> q = random_queries(shape, 1, 111);
      const Record centred =
          encode_rows(oracle(), tokens, row_range(0, 256), {Codec::kI8, Codec::kI8, mean.data()});
      const Record halves =
          encode_rows(oracle(), tokens, row_range(500, 600), {codec, codec, mean.data()});
      std::vector<BlockView> views = {centred.view, halves.view};
      AttendItem item = item_over(shape, 1, q, views, tokens.open(600, 700));
      item.k_mean = mean.data();
      expect_gpu_agreement(item);

      if (offset > 100) continue;  // fp32 scores of keys that are not centred
      const Record uncentred =
          encode_rows(oracle(), tokens, row_range(256, 500), {Codec::kI8, Codec::kI4});
      views.push_back(uncentred.view);
      item.blocks = views;
      expect_gpu_agreement(item, offset > 1 ? 2e-3 : 2e-4);
    }
  }
}

TEST_F(gpu_attend, variants_agree_with_the_formula) {
  for (const int head_dim : {64, 128}) {
    const KvShape shape = {.layers = 1, .q_heads = 14, .kv_heads = 2, .head_dim = head_dim};
    const int block = tokens_per_block(head_dim), count = 2 * block + 45;
    const Tokens tokens = random_tokens(shape, count, 120, {.k_offset = 3, .v_offset = 1});
    std::vector<float> mean(static_cast<size_t>(2 * head_dim));
    ASSERT_TRUE(oracle().mean_key(shape, tokens.open(), row_range(0, count), mean.data()).ok());
    const std::vector<float> q = random_queries(shape, 1, 121);
    for (const Codec codec : {Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1}) {
      for (const bool rotated : {false, true}) {
        for (const bool per_token : {false, true}) {
          if (rotated && bits_of(codec) > 2) continue;
          SCOPED_TRACE(testing::Message()
                       << name(codec) << ", head_dim " << head_dim << ", rotated " << rotated
                       << ", per token " << per_token);
          const std::vector<Record> records = encode_all(oracle(), tokens, count, block,
                                                         {.k_codec = codec,
                                                          .v_codec = codec,
                                                          .k_mean = mean.data(),
                                                          .k_rotated = rotated,
                                                          .v_per_token = per_token});
          const std::vector<BlockView> views = views_of(records);
          AttendItem item = item_over(shape, 1, q, views, tokens.open(0, 40));
          item.k_mean = mean.data();
          expect_gpu_agreement(item);
        }
      }
    }
  }
}

TEST_F(gpu_attend, shared_headers_serve_many_blocks) {
  const KvShape shape = {.layers = 1, .q_heads = 7, .kv_heads = 1, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 500, 112);
  const Segment segment = encode_segment(oracle(), tokens, 500, 128, {Codec::kI1, Codec::kI1});
  const std::vector<BlockView> views = views_of(segment.records);
  expect_gpu_agreement(item_over(shape, 1, random_queries(shape, 1, 113), views));
}

TEST_F(gpu_attend, dead_tokens_count_exactly_nothing) {
  const KvShape shape = {.layers = 1, .q_heads = 8, .kv_heads = 2, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 300, 130);
  const std::vector<float> q = random_queries(shape, 2, 131);
  std::mt19937 random(132);
  for (const Pair pair : kPairs) {
    if (pair.k == Codec::kBf16) continue;
    SCOPED_TRACE(words(pair));
    const std::vector<Record> records =
        encode_all(oracle(), tokens, 300, 256, {.k_codec = pair.k, .v_codec = pair.v});
    std::vector<BlockView> views = views_of(records);
    std::vector<std::vector<uint32_t>> masks;
    for (BlockView& view : views) {
      std::vector<uint32_t>& mask = masks.emplace_back((view.token_count + 31) / 32);
      for (int t = 0; t < view.token_count; ++t)
        if (random() % 3 != 0) mask[t / 32] |= 1u << t % 32;
    }
    for (size_t i = 0; i < views.size(); ++i) views[i].live = masks[i].data();
    expect_gpu_agreement(item_over(shape, 2, q, views));
    for (auto& mask : masks) std::fill(mask.begin(), mask.end(), 0u);
    const AttendItem none = item_over(shape, 2, q, views);
    const Partial empty = attend_on_gpu({&none, 1})[0];
    for (const float x : empty.lse) EXPECT_EQ(x, -kInfinity);
  }
}

TEST_F(gpu_attend, great_scores_and_flat_tails_stay_exact) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 1, .head_dim = 128};
  for (const float sigma : {0.01f, 8.0f, 60.0f}) {
    SCOPED_TRACE(testing::Message() << "queries of " << sigma);
    const Tokens tokens = random_tokens(shape, 640, 140, {.v_offset = 2});
    const std::vector<float> q = random_queries(shape, 1, 141, sigma);
    for (const Pair pair :
         {Pair{Codec::kF16, Codec::kF16}, {Codec::kI8, Codec::kI8}, {Codec::kI2, Codec::kI2}}) {
      const std::vector<Record> records =
          encode_all(oracle(), tokens, 640, 128, {.k_codec = pair.k, .v_codec = pair.v});
      const std::vector<BlockView> views = views_of(records);
      expect_gpu_agreement(item_over(shape, 1, q, views), sigma > 8 ? 2e-3 : 2e-4);
    }
  }
}

// 100,003 tokens: a hundred thousand weights add up, and tasks are many.
TEST_F(gpu_attend, a_hundred_thousand_tokens) {
  const KvShape shape = {.layers = 1, .q_heads = 7, .kv_heads = 1, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 100003, 150, {.v_offset = 0.3});
  const std::vector<float> q = random_queries(shape, 1, 151);
  const auto fast = make_engine("onednn", 16);
  for (const Pair pair :
       {Pair{Codec::kF16, Codec::kF16}, {Codec::kI4, Codec::kI4}, {Codec::kI2, Codec::kI1}}) {
    SCOPED_TRACE(words(pair));
    const std::vector<Record> records =
        encode_all(*fast, tokens, 100000, 128, {.k_codec = pair.k, .v_codec = pair.v});
    const std::vector<BlockView> views = views_of(records);
    AttendItem item = item_over(shape, 1, q, views, tokens.open(100000, 100003));
    expect_gpu_agreement(item);
  }
}

TEST_F(gpu_attend, bits_do_not_depend_on_the_memory_that_bytes_lie_in) {
  const KvShape shape = {.layers = 1, .q_heads = 14, .kv_heads = 2, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 2000, 160);
  const std::vector<float> q = random_queries(shape, 1, 161);
  for (const Pair pair : kPairs) {
    if (pair.k == Codec::kBf16) continue;
    const std::vector<Record> records =
        encode_all(oracle(), tokens, 1900, 128, {.k_codec = pair.k, .v_codec = pair.v});
    const std::vector<BlockView> views = views_of(records);
    const AttendItem item = item_over(shape, 1, q, views, tokens.open(1900, 2000));
    const Partial device = attend_on_gpu({&item, 1})[0];
    const Partial mapped = attend_on_gpu({&item, 1}, CudaMemory::kPinned)[0];
    EXPECT_EQ(std::memcmp(device.out.data(), mapped.out.data(), device.out.size() * 4), 0);
    EXPECT_EQ(std::memcmp(device.lse.data(), mapped.lse.data(), device.lse.size() * 4), 0);
  }
}

TEST_F(gpu_attend, many_items_of_different_lengths_in_one_call) {
  const KvShape shape = {.layers = 1, .q_heads = 14, .kv_heads = 2, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 3000, 170);
  std::list<std::vector<float>> queries;
  std::list<std::vector<Record>> records;
  std::list<std::vector<BlockView>> views;
  std::vector<AttendItem> items;
  uint32_t seed = 171;
  for (const int count : {0, 5, 128, 700, 2900}) {
    for (const Pair pair : {Pair{Codec::kI8, Codec::kI8}, {Codec::kI1, Codec::kI1}}) {
      queries.push_back(random_queries(shape, 1, seed++));
      records.push_back(
          encode_all(oracle(), tokens, count, 128, {.k_codec = pair.k, .v_codec = pair.v}));
      views.push_back(views_of(records.back()));
      items.push_back(item_over(shape, 1, queries.back(), views.back(),
                                tokens.open(count, std::min(3000, count + 90))));
    }
  }
  const std::vector<Partial> partials = attend_on_gpu(items);
  for (size_t i = 0; i < items.size(); ++i) {
    const Difference found = difference(partials[i], attend(oracle(), items[i]));
    EXPECT_LE(found.out, 2e-4) << i;
    EXPECT_LE(found.lse, 2e-4) << i;
  }
}

}  // namespace
}  // namespace vkv
