// attend_variants_test: rotated K and V per token agree with the formula, and cost what they
// should. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "cpu/decode.h"
#include "runtime/base/hadamard.h"
#include "tests/attend_comparison.h"

namespace vkv {
namespace {

struct Variant {
  Codec k, v;
  bool k_rotated, v_per_token;
};

constexpr Variant kVariants[] = {
    {Codec::kI2, Codec::kI2, true, false},  {Codec::kI1, Codec::kI1, true, false},
    {Codec::kI8, Codec::kI8, false, true},  {Codec::kI4, Codec::kI4, false, true},
    {Codec::kI2, Codec::kI1, true, true},   {Codec::kI1, Codec::kI2, true, true},
    {Codec::kF16, Codec::kI4, false, true}, {Codec::kI2, Codec::kF16, true, false}};

BlockOptions options_of(const Variant& variant, const std::vector<float>& mean) {
  return {.k_codec = variant.k,
          .v_codec = variant.v,
          .k_mean = is_16_bit(variant.k) ? nullptr : mean.data(),
          .k_rotated = variant.k_rotated,
          .v_per_token = variant.v_per_token};
}

std::vector<float> mean_of(const Tokens& tokens, int count) {
  std::vector<float> mean(static_cast<size_t>(tokens.shape.kv_heads) * tokens.shape.head_dim);
  EXPECT_TRUE(
      oracle().mean_key(tokens.shape, tokens.open(), row_range(0, count), mean.data()).ok());
  return mean;
}

testing::Message name_of(const Variant& variant) {
  return testing::Message() << "codecs " << static_cast<int>(variant.k) << "/"
                            << static_cast<int>(variant.v) << ", rotated " << variant.k_rotated
                            << ", per token " << variant.v_per_token;
}

TEST(attend_variants, they_agree_with_the_formula_for_every_head_dim_length_and_group) {
  for (const int head_dim : {8, 16, 32, 64, 80, 96, 128, 256}) {
    KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = head_dim};
    const int block = tokens_per_block(head_dim), most = block + 37;
    const Tokens tokens = random_tokens(shape, most, 201, {.k_offset = 3, .v_offset = 1});
    const std::vector<float> mean = mean_of(tokens, most);
    for (const Variant& variant : kVariants) {
      if (variant.k_rotated && !is_power_of_two(head_dim)) continue;
      for (const int count : {1, 31, 33, block - 1, block, most}) {
        const std::vector<Record> records =
            encode_all(engine(), tokens, count, block, options_of(variant, mean));
        const std::vector<BlockView> views = views_of(records);
        for (const int group : {1, 4, 7}) {
          SCOPED_TRACE(name_of(variant)
                       << ", head_dim " << head_dim << ", " << count << " tokens, group " << group);
          shape.q_heads = 2 * group;
          const std::vector<float> q = random_queries(shape, 2, 202);
          AttendItem item = item_over(shape, 2, q, views);
          item.k_mean = mean.data();
          expect_agreement(item);
        }
      }
    }
  }
}

TEST(attend_variants, any_partition_merged_by_lse_is_the_whole) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 1300, 203, {.k_offset = 5});
  const std::vector<float> mean = mean_of(tokens, 1000);
  const std::vector<float> q = random_queries(shape, 2, 204, 2.0f);
  std::vector<Record> records;
  int sealed = 0;
  for (const Variant& variant : kVariants) {
    records.push_back(
        encode_rows(engine(), tokens, row_range(sealed, sealed + 130), options_of(variant, mean)));
    sealed += 130;
  }
  // In the midst of other blocks: rotated and plain queries alternate.
  records.insert(records.begin() + 1, encode_rows(engine(), tokens, row_range(sealed, sealed + 130),
                                                  {.k_mean = mean.data()}));
  sealed += 130;
  const std::vector<BlockView> views = views_of(records);
  AttendItem whole = item_over(shape, 2, q, views, tokens.open(sealed, tokens.count));
  whole.k_mean = mean.data();
  whole.causal = true;
  expect_agreement(whole);

  std::mt19937 random(205);
  for (Backend* backend : {&oracle(), &engine()}) {
    const Partial expected = attend(*backend, whole);
    for (int round = 0; round < 4; ++round) {
      Partial merged = {std::vector<float>(expected.out.size(), 0.0f),
                        std::vector<float>(expected.lse.size(), -kInfinity)};
      for (size_t begin = 0; begin < views.size();) {
        const size_t end = std::min(views.size(), begin + 1 + random() % 3);
        AttendItem part = item_over(shape, 2, q, std::span(views).subspan(begin, end - begin));
        part.k_mean = mean.data();
        merge(attend(*backend, part), merged);
        begin = end;
      }
      AttendItem open = whole;
      open.blocks = {};
      merge(attend(*backend, open), merged);
      const Difference found = difference(merged, expected);
      EXPECT_LE(found.out, 1e-5);
      EXPECT_LE(found.lse, 1e-5);
    }
  }
}

// Scores and outputs from codes by the folded formulas, in double precision; see DESIGN of codecs
// in runtime/base/block_format.h. Here against values decoded first.
TEST(attend_variants, folding_scales_into_queries_and_outputs_changes_nothing) {
  const int head_dim = 64, count = 200;
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = head_dim};
  const Tokens tokens = random_tokens(shape, count, 206, {.k_offset = 2, .v_offset = 1});
  const std::vector<float> mean = mean_of(tokens, count);
  const std::vector<float> q = random_queries(shape, 1, 207);
  constexpr Variant kAll[] = {{Codec::kI8, Codec::kI8, false, false},
                              {Codec::kI4, Codec::kI2, false, false},
                              {Codec::kI1, Codec::kI1, false, false},
                              {Codec::kI2, Codec::kI2, true, true},
                              {Codec::kI1, Codec::kI8, true, true}};
  for (const Variant& variant : kAll) {
    SCOPED_TRACE(name_of(variant));
    const Record record =
        encode_rows(engine(), tokens, row_range(0, count), options_of(variant, mean));
    const auto* k_scales = reinterpret_cast<const uint16_t*>(record.view.headers);
    const auto* v_scales = k_scales + record.layout.v_scales_of(0) / 2;
    const auto code = [](const std::byte* payload, Codec codec, int columns, int row, int column) {
      const CodePosition at = code_position(bits_of(codec), columns, row, column);
      uint32_t word;
      std::memcpy(&word, payload + 4 * at.word, 4);
      return static_cast<double>(word >> at.bit & static_cast<uint32_t>(code_max(bits_of(codec))));
    };

    // 1. q' = q_r s and beta = q_r . z; S = q' . c + beta.
    std::vector<double> q_r(q.begin(), q.end());
    if (variant.k_rotated) hadamard(q_r.data(), head_dim);
    double beta = 0, l = 0;
    for (int c = 0; c < head_dim; ++c) {
      beta += q_r[c] * float_from_half(k_scales[record.layout.channels + c]);
      q_r[c] *= float_from_half(k_scales[c]);
    }
    std::vector<double> p(count), out(head_dim, 0.0);
    for (int t = 0; t < count; ++t) {
      double score = beta;
      for (int c = 0; c < head_dim; ++c)
        score += q_r[c] * code(record.view.payload, variant.k, record.layout.channels, t, c);
      p[t] = std::exp(score / 8);
      l += p[t];
    }
    // 2. O = s (sum p c) + z l, or sum (p s) c + sum p z.
    const std::byte* v = record.view.payload + record.layout.v_of(0);
    const int lanes = record.layout.v_scales;
    for (int c = 0; c < head_dim; ++c) {
      double codes = 0, zeros = 0;
      for (int t = 0; t < count; ++t) {
        const int lane = variant.v_per_token ? t : c;
        codes +=
            p[t] * code(v, variant.v, record.layout.tokens, c, t) * float_from_half(v_scales[lane]);
        zeros += p[t] * float_from_half(v_scales[lanes + lane]);
      }
      out[c] = (codes + zeros) / l;
    }
    // 3. The reference decodes first.
    AttendItem item = item_over(shape, 1, q, {&record.view, 1});
    item.k_mean = mean.data();
    const Partial expected = attend(oracle(), item);
    double largest = 0, error = 0;
    for (int c = 0; c < head_dim; ++c) {
      largest = std::max(largest, std::abs(double{expected.out[c]}));
      error = std::max(error, std::abs(out[c] - double{expected.out[c]}));
    }
    EXPECT_LT(error / largest, 1e-5);
    EXPECT_NEAR(std::log(l), expected.lse[0], 1e-5 * std::max(1.0, std::abs(std::log(l))));
  }
}

// Per channel, a rotation does not change the mean variance: it helps where values have heavy
// tails, which sums over channels do not.
TEST(attend_variants, rotation_helps_heavy_tails_and_does_not_hurt_normal_values) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 128};
  Tokens tokens = random_tokens(shape, 128, 208);
  const auto squared_error = [&](bool rotated) {
    const std::vector<float> mean = mean_of(tokens, 128);
    const BlockOptions options = {
        .k_codec = Codec::kI1, .v_codec = Codec::kI1, .k_mean = mean.data(), .k_rotated = rotated};
    const Record record = encode_rows(engine(), tokens, row_range(0, 128), options);
    std::vector<float> k(128 * 128), v(128 * 128);
    decode_head(shape, record.view, 0, mean.data(), k.data(), v.data());
    double sum = 0;
    for (size_t i = 0; i < k.size(); ++i) sum += std::pow(k[i] - float_from_half(tokens.k[i]), 2.0);
    return sum;
  };
  EXPECT_NEAR(squared_error(true) / squared_error(false), 1.0, 0.05);
  // Products of two normal values: 1 bit leaves 1 - (2/pi)^2 = 0.59 of the variance, of normal ones
  // 1 - 2/pi = 0.36.
  for (size_t i = 0; i < tokens.k.size(); ++i)
    tokens.k[i] = half_from_float(float_from_half(tokens.k[i]) * float_from_half(tokens.v[i]));
  EXPECT_LT(squared_error(true), 0.7 * squared_error(false));
}

TEST(attend_variants, v_per_token_is_within_half_a_step_and_costs_four_bytes_a_token) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 80};
  const Tokens tokens = random_tokens(shape, 50, 209, {.v_offset = 4});
  const Record record = encode_rows(engine(), tokens, row_range(0, 50), {.v_per_token = true});
  EXPECT_EQ(record.layout.head_header, 4u * 96 + 4u * 64);
  std::vector<float> k(50 * 80), v(50 * 80);
  for (int head = 0; head < 2; ++head) {
    decode_head(shape, record.view, head, nullptr, k.data(), v.data());
    const auto* scales =
        reinterpret_cast<const uint16_t*>(record.view.headers + record.layout.v_scales_of(head));
    for (int t = 0; t < 64; ++t) {
      const float scale = float_from_half(scales[t]), zero = float_from_half(scales[64 + t]);
      if (t >= 50) {
        EXPECT_EQ(scale, 0.0f);
        EXPECT_EQ(zero, 0.0f);
        continue;
      }
      for (int c = 0; c < 80; ++c) {
        const float value = float_from_half(tokens.v[(t * 2 + head) * 80 + c]);
        EXPECT_NEAR(v[t * 80 + c], value, scale / 2 + (255 * scale + std::abs(zero)) * 0x1p-11f);
      }
    }
  }
}

TEST(attend_variants, what_cannot_be_is_refused) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 40, 210);
  const std::vector<uint32_t> rows = row_range(0, 40);
  const std::vector<float> mean(96, 0.0f);
  const auto code_of = [&](const Tokens& source, const BlockOptions& options) {
    EncodeItem item = encode_item(source, rows, options);
    AlignedBytes bytes(block_layout(item).record_bytes());
    item.record = bytes.span();
    return engine().encode({&item, 1}).code();
  };
  BlockOptions good = {.k_codec = Codec::kI2,
                       .v_codec = Codec::kI2,
                       .k_mean = mean.data(),
                       .k_rotated = true,
                       .v_per_token = true};
  EXPECT_EQ(code_of(tokens, good), Code::kOk);
  BlockOptions bad = good;
  bad.k_codec = Codec::kI4;
  EXPECT_EQ(code_of(tokens, bad), Code::kInvalidArgument);
  bad = good;
  bad.k_mean = nullptr;
  EXPECT_EQ(code_of(tokens, bad), Code::kInvalidArgument);
  bad = good;
  bad.v_codec = Codec::kF16;
  EXPECT_EQ(code_of(tokens, bad), Code::kInvalidArgument);
  bad = good;
  const AlignedBytes headers(1024);
  bad.shared_headers = headers.data();
  EXPECT_EQ(code_of(tokens, bad), Code::kInvalidArgument);
  KvShape odd = shape;
  odd.head_dim = 96;
  EXPECT_EQ(code_of(random_tokens(odd, 40, 211), good), Code::kInvalidArgument);

  const Record record = encode_rows(engine(), tokens, rows, good);
  BlockView view = record.view;
  view.centred = false;
  const std::vector<float> q = random_queries(shape, 1, 212);
  std::vector<float> out(64), lse(1);
  AttendItem item = item_over(shape, 1, q, {&view, 1});
  item.out = out.data();
  item.lse = lse.data();
  for (Backend* backend : {&engine(), &oracle()})
    EXPECT_EQ(backend->attend({&item, 1}).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace vkv
