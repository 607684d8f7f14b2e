// attend_test: engines agree with the double-precision formula, for every codec, shape and split.
// SPDX-License-Identifier: Apache-2.0
//
// The engine under test is the one that would be chosen, or VKV_CPU's. CMake runs this file again
// with each engine, and with ONEDNN_MAX_CPU_ISA lowered, so that one machine checks the kernels of
// others.
#include <gtest/gtest.h>
#include <tbb/global_control.h>

#include <cmath>
#include <cstdlib>

#include "cpu/attend_tiles.h"
#include "cpu/brgemm.h"
#include "tests/attend_comparison.h"

namespace vkv {
namespace {

struct CodecPair {
  Codec k, v;
};
constexpr CodecPair kPairs[] = {
    {Codec::kF16, Codec::kF16}, {Codec::kBf16, Codec::kBf16}, {Codec::kI8, Codec::kI8},
    {Codec::kI8, Codec::kI4},   {Codec::kI4, Codec::kI4},     {Codec::kI4, Codec::kI2},
    {Codec::kI2, Codec::kI1},   {Codec::kI1, Codec::kI1},     {Codec::kF16, Codec::kI8}};

TEST(attend, codes_agree_with_the_formula_for_every_length) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 128};
  for (const CodecPair pair : kPairs) {
    const Codec open_codec = pair.k == Codec::kBf16 ? Codec::kBf16 : Codec::kF16;
    const Tokens tokens = random_tokens(shape, 129, 101, {.v_offset = 0.5}, open_codec);
    const std::vector<float> q = random_queries(shape, 1, 102);
    for (const int count : {1, 2, 31, 33, 77, 127, 128, 129}) {
      SCOPED_TRACE(testing::Message() << "codecs " << static_cast<int>(pair.k) << "/"
                                      << static_cast<int>(pair.v) << ", " << count << " tokens");
      const std::vector<Record> records =
          encode_all(oracle(), tokens, count, 128, {.k_codec = pair.k, .v_codec = pair.v});
      const std::vector<BlockView> views = views_of(records);
      expect_agreement(item_over(shape, 1, q, views));
    }
  }
}

TEST(attend, codes_agree_with_the_formula_for_every_head_dim_and_group) {
  for (const int head_dim : {8, 64, 80, 96, 128, 256}) {
    KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = head_dim};
    const int block = tokens_per_block(head_dim), most = block + 37;
    const Tokens tokens = random_tokens(shape, most, 103, {.k_offset = 1});
    for (const CodecPair pair : kPairs) {
      if (pair.k == Codec::kBf16) continue;
      for (const int count : {1, block - 1, block, block + 1, most}) {
        const std::vector<Record> records =
            encode_all(oracle(), tokens, count, block, {.k_codec = pair.k, .v_codec = pair.v});
        const std::vector<BlockView> views = views_of(records);
        for (const int group : {1, 2, 3, 4, 5, 6, 7, 8}) {
          if (count != most && group % 3 != 1) continue;  // all groups at the longest, three else
          SCOPED_TRACE(testing::Message()
                       << "head_dim " << head_dim << ", " << count << " tokens, group " << group
                       << ", codecs " << static_cast<int>(pair.k) << "/"
                       << static_cast<int>(pair.v));
          shape.q_heads = 2 * group;
          expect_agreement(item_over(shape, 1, random_queries(shape, 1, 104), views));
        }
      }
    }
  }
}

TEST(attend, several_queries_see_blocks_whole_and_open_tokens_causally) {
  const struct {
    int head_dim, q_len, open_count;
  } cases[] = {{64, 1, 1},   {64, 1, 129},  {64, 3, 3},     {64, 3, 133},
               {64, 16, 16}, {64, 16, 200}, {64, 100, 100}, {64, 100, 230},
               {80, 3, 4},   {80, 16, 130}, {128, 40, 41},  {128, 1, 300}};
  for (const auto& [head_dim, q_len, open_count] : cases) {
    const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = head_dim};
    const int block = tokens_per_block(head_dim), sealed = block + 9;
    const Tokens tokens = random_tokens(shape, sealed + open_count, 105);
    const std::vector<float> q = random_queries(shape, q_len, 106);
    const std::vector<Record> records =
        encode_all(oracle(), tokens, sealed, block, {Codec::kI4, Codec::kI2});
    const std::vector<BlockView> views = views_of(records);
    AttendItem item = item_over(shape, q_len, q, views, tokens.open(sealed, tokens.count));
    for (const bool causal : {true, false}) {
      SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << ", q_len " << q_len << ", open "
                                      << open_count << ", causal " << causal);
      item.causal = causal;
      item.blocks = views;
      expect_agreement(item);
      item.blocks = {};
      expect_agreement(item, 2e-5);
    }
  }
}

TEST(attend, what_a_query_may_not_see_may_be_anything) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 64};
  Tokens tokens = random_tokens(shape, 200, 107);
  const std::vector<float> q = random_queries(shape, 200, 108);
  AttendItem item = item_over(shape, 200, q, {}, tokens.open());
  item.causal = true;
  const Partial clean = attend(engine(), item);
  for (size_t at = 150 * 64; at < tokens.k.size(); ++at) tokens.k[at] = 0x7bff;
  const Partial changed = attend(engine(), item);
  EXPECT_EQ(std::memcmp(clean.out.data(), changed.out.data(), 150 * 2 * 64 * 4), 0);
  EXPECT_EQ(std::memcmp(clean.lse.data(), changed.lse.data(), 150 * 2 * 4), 0);
}

TEST(attend, no_token_gives_zero_and_minus_infinity) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const std::vector<float> q = random_queries(shape, 2, 109);
  for (Backend* backend : {&engine(), &oracle()}) {
    const Partial partial = attend(*backend, item_over(shape, 2, q, {}));
    for (const float x : partial.out) EXPECT_EQ(x, 0.0f);
    for (const float x : partial.lse) EXPECT_EQ(x, -kInfinity);
    EXPECT_TRUE(backend->attend({}).ok());
    const AttendItem nothing = {.shape = shape};
    EXPECT_TRUE(backend->attend({&nothing, 1}).ok());
  }
}

TEST(attend, a_mean_shifts_every_kind_of_block_alike) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 700, 110, {.k_offset = 100});
  std::vector<float> mean(128);
  ASSERT_TRUE(oracle().mean_key(shape, tokens.open(), row_range(0, 256), mean.data()).ok());
  const std::vector<float> q = random_queries(shape, 1, 111);

  const Record centred =
      encode_rows(oracle(), tokens, row_range(0, 256), {Codec::kI8, Codec::kI8, mean.data()});
  const Record uncentred =
      encode_rows(oracle(), tokens, row_range(256, 500), {Codec::kI8, Codec::kI4});
  const Record halves =
      encode_rows(oracle(), tokens, row_range(500, 600), {Codec::kF16, Codec::kF16, mean.data()});
  const std::vector<BlockView> views = {centred.view, uncentred.view, halves.view};
  AttendItem item = item_over(shape, 1, q, views, tokens.open(600, 700));
  item.k_mean = mean.data();
  expect_agreement(item);

  // Blocks as they are, and the same without a mean at all: out is that of unshifted scores.
  const Partial shifted = attend(engine(), item);
  const Record plain = encode_rows(oracle(), tokens, row_range(0, 256), {Codec::kF16, Codec::kI8});
  const std::vector<BlockView> unshifted_views = {plain.view, uncentred.view, halves.view};
  AttendItem unshifted = item_over(shape, 1, q, unshifted_views, tokens.open(600, 700));
  EXPECT_LE(difference(shifted, attend(oracle(), unshifted)).out, 0.02);  // I8 against F16
}

TEST(attend, shared_headers_serve_many_blocks) {
  const KvShape shape = {.layers = 1, .q_heads = 7, .kv_heads = 1, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 500, 112);
  const Segment segment = encode_segment(oracle(), tokens, 500, 128, {Codec::kI1, Codec::kI1});
  const std::vector<BlockView> views = views_of(segment.records);
  expect_agreement(item_over(shape, 1, random_queries(shape, 1, 113), views));
}

// Scores of chosen size: token t has key target[t] * q / (q.q), so that q.k is target[t].
Tokens tokens_with_scores(const KvShape& shape, const std::vector<float>& q,
                          const std::vector<float>& targets, uint32_t seed) {
  Tokens tokens = random_tokens(shape, static_cast<int>(targets.size()), seed);
  float squared = 0;
  for (int c = 0; c < shape.head_dim; ++c) squared += q[c] * q[c];
  for (size_t t = 0; t < targets.size(); ++t)
    for (int c = 0; c < shape.head_dim; ++c)
      tokens.k[t * shape.head_dim + c] = half_from_float(targets[t] * q[c] / squared);
  return tokens;
}

TEST(attend, flat_tails_beside_a_dominating_sink_keep_their_mass) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 128};
  const std::vector<float> q = random_queries(shape, 1, 114);
  for (const float height : {0.0f, 6.0f, 11.0f, 11.5f, 12.0f, 14.0f}) {
    std::vector<float> targets(256, 0.0f);
    targets[3] = height;
    const Tokens tokens = tokens_with_scores(shape, q, targets, 115);
    for (const CodecPair pair : kPairs) {
      if (pair.k == Codec::kBf16) continue;
      SCOPED_TRACE(testing::Message()
                   << "height " << height << ", codecs " << static_cast<int>(pair.k) << "/"
                   << static_cast<int>(pair.v));
      const std::vector<Record> records =
          encode_all(oracle(), tokens, 256, 128, {.k_codec = pair.k, .v_codec = pair.v});
      const std::vector<BlockView> views = views_of(records);
      AttendItem item = item_over(shape, 1, q, views);
      item.scale = 1.0f;
      expect_agreement(item);
    }
  }
}

TEST(attend, scores_of_large_magnitude_neither_overflow_nor_drift) {
  const KvShape shape = {.layers = 1, .q_heads = 3, .kv_heads = 1, .head_dim = 64};
  for (const float sigma : {5.0f, 30.0f, 1000.0f}) {
    const Tokens tokens = random_tokens(shape, 300, 116);
    const std::vector<float> q = random_queries(shape, 1, 117, sigma);
    for (const CodecPair pair : kPairs) {
      if (pair.k == Codec::kBf16) continue;
      SCOPED_TRACE(testing::Message()
                   << "sigma " << sigma << ", codecs " << static_cast<int>(pair.k) << "/"
                   << static_cast<int>(pair.v));
      const std::vector<Record> records =
          encode_all(oracle(), tokens, 300, 256, {.k_codec = pair.k, .v_codec = pair.v});
      const std::vector<BlockView> views = views_of(records);
      // Planes have 16 bits of q * s: scores err by some 2e-5 of their spread, which is sigma.
      expect_agreement(item_over(shape, 1, q, views), 2e-4 * std::max(1.0f, sigma / 5));
    }
  }
}

TEST(attend, queries_too_small_for_planes_see_every_token_alike) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 200, 127);
  for (const float sigma : {0.0f, 1e-42f, 1e-36f}) {
    const std::vector<float> q = random_queries(shape, 1, 128, sigma);
    for (const CodecPair pair : kPairs) {
      if (pair.k == Codec::kBf16) continue;
      const std::vector<Record> records =
          encode_all(oracle(), tokens, 200, 256, {.k_codec = pair.k, .v_codec = pair.v});
      const std::vector<BlockView> views = views_of(records);
      expect_agreement(item_over(shape, 1, q, views));
    }
  }
}

TEST(attend, any_partition_merged_by_lse_is_the_whole) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 1200, 118);
  const std::vector<float> q = random_queries(shape, 2, 119, 3.0f);
  std::vector<Record> records;
  int sealed = 0;
  for (const CodecPair pair : kPairs) {
    if (pair.k == Codec::kBf16) continue;
    records.push_back(encode_rows(oracle(), tokens, row_range(sealed, sealed + 130),
                                  {.k_codec = pair.k, .v_codec = pair.v}));
    sealed += 130;
  }
  const std::vector<BlockView> views = views_of(records);
  AttendItem whole = item_over(shape, 2, q, views, tokens.open(sealed, tokens.count));
  whole.causal = true;

  std::mt19937 random(120);
  for (Backend* backend : {&oracle(), &engine()}) {
    const Partial expected = attend(*backend, whole);
    for (int round = 0; round < 4; ++round) {
      Partial merged = {std::vector<float>(expected.out.size(), 0.0f),
                        std::vector<float>(expected.lse.size(), -kInfinity)};
      const auto add = [&](const AttendItem& part) { merge(attend(*backend, part), merged); };
      for (size_t begin = 0; begin < views.size();) {
        const size_t end = std::min(views.size(), begin + 1 + random() % 3);
        add(item_over(shape, 2, q, std::span(views).subspan(begin, end - begin)));
        begin = end;
      }
      AttendItem open = whole;
      open.blocks = {};
      add(open);
      const Difference found = difference(merged, expected);
      EXPECT_LE(found.out, 1e-5);
      EXPECT_LE(found.lse, 1e-5);
    }
  }
}

TEST(attend, results_do_not_depend_on_addresses_threads_or_company) {
  const KvShape shape = {.layers = 1, .q_heads = 8, .kv_heads = 4, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 900, 121);
  const std::vector<float> q = random_queries(shape, 90, 122);
  for (const CodecPair pair : {CodecPair{Codec::kI4, Codec::kI2}, {Codec::kI8, Codec::kF16}}) {
    const BlockOptions options = {.k_codec = pair.k, .v_codec = pair.v};
    const std::vector<Record> records = encode_all(oracle(), tokens, 600, 256, options);
    const std::vector<Record> copies = encode_all(oracle(), tokens, 600, 256, options);
    const std::vector<BlockView> views = views_of(records), copied_views = views_of(copies);
    AttendItem item = item_over(shape, 90, q, views, tokens.open(600, 900));
    item.causal = true;
    const Partial expected = attend(engine(), item);

    const std::unique_ptr<Backend> single = make_engine("", 1);
    item.blocks = copied_views;
    std::vector<Partial> partials(5, expected);
    std::vector<AttendItem> items(5, item);
    items[1].q_len = items[3].q_len = 7;  // other company
    for (size_t i = 0; i < items.size(); ++i) {
      std::fill(partials[i].out.begin(), partials[i].out.end(), NAN);
      items[i].out = partials[i].out.data();
      items[i].lse = partials[i].lse.data();
    }
    for (Backend* backend : {single.get(), &engine()}) {
      ASSERT_TRUE(backend->attend(items).ok());
      for (const size_t i : {size_t{0}, size_t{2}, size_t{4}}) {
        EXPECT_EQ(std::memcmp(partials[i].out.data(), expected.out.data(),
                              expected.out.size() * sizeof(float)),
                  0);
        EXPECT_EQ(partials[i].lse, expected.lse);
      }
    }
  }
}

TEST(attend, items_of_many_blocks_are_cut_and_merged_alike_on_any_number_of_threads) {
  const KvShape shape = {.layers = 1, .q_heads = 6, .kv_heads = 2, .head_dim = 64};
  for (const int blocks : {16, 17, 50}) {
    const int sealed = 32 * blocks;
    const Tokens tokens = random_tokens(shape, sealed + 40, 129, {.k_sigma = 2});
    const std::vector<Record> records =
        encode_all(oracle(), tokens, sealed, 32, {Codec::kI4, Codec::kI4});
    const std::vector<BlockView> views = views_of(records);
    for (const int q_len : {1, 5, 6}) {  // 3, 15 and 18 rows: the last are not cut
      SCOPED_TRACE(testing::Message() << blocks << " blocks, " << q_len << " queries");
      const std::vector<float> q = random_queries(shape, q_len, 130);
      AttendItem item = item_over(shape, q_len, q, views, tokens.open(sealed, tokens.count));
      item.causal = true;
      expect_agreement(item);
      const Partial expected = attend(engine(), item);
      for (const int threads : {1, 3}) {
        const Partial got = attend(*make_engine("", threads), item);
        EXPECT_EQ(got.out, expected.out);
        EXPECT_EQ(got.lse, expected.lse);
      }
    }
  }
}

// As machines of two and of four nodes would have it, with items whose blocks lie on each of them,
// on one alone, and on none that is known.
TEST(attend, teams_of_any_number_give_the_same_bits_wherever_blocks_lie) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  constexpr size_t kItems = 6;
  const Tokens tokens = random_tokens(shape, 32 * 40, 133);
  const std::vector<Record> records =
      encode_all(oracle(), tokens, tokens.count, 32, {Codec::kI4, Codec::kI2});
  const std::vector<BlockView> views = views_of(records);
  const std::vector<float> q = random_queries(shape, 1, 134);
  std::vector<AttendItem> items;
  for (size_t i = 0; i < kItems; ++i)  // 6, 12, ... 36 blocks
    items.push_back(item_over(shape, 1, q, std::span(views).first(6 * (i + 1))));
  const auto attend_all = [&](Backend& backend) {
    std::vector<Partial> partials(
        kItems, {std::vector<float>(q.size(), NAN), std::vector<float>(q.size() / 64, NAN)});
    for (size_t i = 0; i < kItems; ++i) {
      items[i].out = partials[i].out.data();
      items[i].lse = partials[i].lse.data();
    }
    EXPECT_TRUE(backend.attend(items).ok());
    return partials;
  };
  const std::vector<Partial> expected = attend_all(*make_engine("", 1));

  const tbb::global_control threads(tbb::global_control::max_allowed_parallelism, 7);
  for (const int team_count : {1, 2, 4}) {
    ThreadPlan plan;
    for (int node = 0; node < team_count; ++node)
      plan.teams.push_back({.node = node, .thread_count = 1 + node % 2, .cpus = {0}});
    for (const int awake_us : {0, 200}) {
      auto backend = make_cpu_backend({.plan = plan, .awake_us = awake_us});
      ASSERT_TRUE(backend.ok()) << backend.status().message();
      for (const int spread : {1, 3, 5}) {
        for (size_t i = 0; i < kItems; ++i)
          items[i].node = static_cast<int>(i) % spread - 1;  // from kUnknownNode on
        const std::vector<Partial> got = attend_all(*backend.value());
        for (size_t i = 0; i < kItems; ++i) {
          EXPECT_EQ(got[i].out, expected[i].out) << team_count << " teams, item " << i;
          EXPECT_EQ(got[i].lse, expected[i].lse);
        }
      }
    }
  }
}

// Products of bytes are exact, and all else is the same code.
TEST(attend, encoded_blocks_give_the_same_bits_whatever_multiplies) {
  if (!can_run(TileEngine::kAmxEmulated).ok()) GTEST_SKIP() << "no AVX-512";
  if (matrix_unit().has_avx512 && !matrix_unit().exact_8_bit) GTEST_SKIP() << "no exact products";
  for (const int head_dim : {64, 96, 128, 256}) {
    KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = head_dim};
    const Tokens tokens = random_tokens(shape, 300, 131, {.k_offset = 1});
    for (const Codec codec : {Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1}) {
      const std::vector<Record> records =
          encode_all(oracle(), tokens, 300, tokens_per_block(head_dim), {codec, codec});
      const std::vector<BlockView> views = views_of(records);
      for (const int group : {1, 7, 16, 40}) {
        shape.q_heads = 2 * group;
        const std::vector<float> q = random_queries(shape, 1, 132);
        const AttendItem item = item_over(shape, 1, q, views);
        const Partial one = attend(*make_engine("onednn"), item);
        const Partial other = attend(*make_engine("amx-emulated"), item);
        EXPECT_EQ(one.out, other.out) << "head_dim " << head_dim << ", group " << group;
        EXPECT_EQ(one.lse, other.lse);
        if (!can_run(TileEngine::kAmx).ok()) continue;
        EXPECT_EQ(one.out, attend(*make_engine("amx"), item).out);
      }
    }
  }
}

TEST(attend, a_query_that_is_not_a_number_gives_no_number) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 100, 123);
  std::vector<float> q = random_queries(shape, 1, 124);
  q[5] = NAN;
  for (const CodecPair pair : kPairs) {
    if (pair.k == Codec::kBf16) continue;
    const std::vector<Record> records =
        encode_all(oracle(), tokens, 100, 256, {.k_codec = pair.k, .v_codec = pair.v});
    const std::vector<BlockView> views = views_of(records);
    const Partial partial = attend(engine(), item_over(shape, 1, q, views));
    for (int c = 0; c < 64; ++c) EXPECT_TRUE(std::isnan(partial.out[c]));
    for (int c = 64; c < 128; ++c) EXPECT_FALSE(std::isnan(partial.out[c]));
  }
}

TEST(attend, calls_that_make_no_sense_are_refused) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 10, 125);
  const std::vector<float> q = random_queries(shape, 1, 126);
  for (Backend* backend : {&engine(), &oracle()}) {
    AttendItem item = item_over(shape, 1, q, {}, tokens.open());
    EXPECT_EQ(backend->attend({&item, 1}).code(), Code::kInvalidArgument);  // no out
    std::vector<float> out(128), lse(2);
    item.out = out.data();
    item.lse = lse.data();
    EXPECT_TRUE(backend->attend({&item, 1}).ok());
    AttendItem bad = item;
    bad.shape.head_dim = 264;
    EXPECT_EQ(backend->attend({&bad, 1}).code(), Code::kUnsupported);
    bad = item;
    bad.open.token_count = 0;
    bad.causal = true;
    EXPECT_EQ(backend->attend({&bad, 1}).code(), Code::kInvalidArgument);
    bad = item;
    const BlockView empty = {};
    bad.blocks = {&empty, 1};
    EXPECT_EQ(backend->attend({&bad, 1}).code(), Code::kInvalidArgument);
  }
}

TEST(cpu_backend, an_unknown_engine_is_refused_with_a_list) {
  const auto backend = make_cpu_backend({.engine = "abacus"});
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.status().code(), Code::kInvalidArgument);
  EXPECT_EQ(backend.status().message(),
            "there is no CPU engine 'abacus'; there are: amx vnni onednn amx-emulated reference");
}

TEST(cpu_backend, the_name_says_which_instructions_it_found) {
  const char* forced = std::getenv("VKV_CPU");
  const std::string best = can_run(TileEngine::kAmx).ok()    ? "amx"
                           : can_run(TileEngine::kVnni).ok() ? "vnni"
                                                             : "onednn";
  const std::string begin = "cpu-" + (forced == nullptr ? best : std::string(forced)) + " (";
  EXPECT_EQ(engine().name().substr(0, begin.size()), begin);
  EXPECT_EQ(oracle().name(), "cpu-reference");
  const char* cap = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (cap != nullptr && std::string_view(cap) == "AVX2") {
    EXPECT_TRUE(engine().name().ends_with(" (avx2)")) << engine().name();
  }
}

}  // namespace
}  // namespace vkv
