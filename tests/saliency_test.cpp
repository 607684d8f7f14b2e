// saliency_test: scores of open tokens are the documented formula, whoever computes them.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "tests/random_tokens.h"

namespace vkv {
namespace {

struct Case {
  KvShape shape;
  Tokens tokens;
  std::vector<float> q, lse, mean;
};

// Queries with the lse of their own causal attention over the tokens.
Case make_case(const KvShape& shape, int token_count, int q_len, Codec codec, uint32_t seed) {
  Case result = {
      .shape = shape,
      .tokens = random_tokens(shape, token_count, seed, {.k_offset = 2, .v_offset = 1}, codec)};
  std::mt19937 random(seed + 1);
  std::normal_distribution<float> normal;
  result.q.resize(static_cast<size_t>(q_len) * shape.q_heads * shape.head_dim);
  for (float& x : result.q) x = normal(random);
  for (int i = 0; i < shape.kv_heads * shape.head_dim; ++i) result.mean.push_back(normal(random));
  result.lse.resize(static_cast<size_t>(q_len) * shape.q_heads);
  std::vector<float> out(result.q.size());
  const AttendItem attend = {.shape = shape,
                             .scale = 0.2f,
                             .q_len = q_len,
                             .q = result.q.data(),
                             .k_mean = result.mean.data(),
                             .open = result.tokens.open(),
                             .causal = true,
                             .out = out.data(),
                             .lse = result.lse.data()};
  EXPECT_TRUE(make_engine("reference")->attend({&attend, 1}).ok());
  return result;
}

std::vector<float> saliency(Backend& backend, const Case& made, int q_len) {
  std::vector<float> score(static_cast<size_t>(made.tokens.count), NAN);
  const SaliencyItem item = {.shape = made.shape,
                             .scale = 0.2f,
                             .q_len = q_len,
                             .q = made.q.data(),
                             .lse = made.lse.data(),
                             .k_mean = made.mean.data(),
                             .open = made.tokens.open(),
                             .score = score.data()};
  const Status status = backend.saliency(item);
  EXPECT_TRUE(status.ok()) << status.message();
  return score;
}

std::vector<double> expected_saliency(const Case& made, int q_len) {
  const KvShape& shape = made.shape;
  const int count = made.tokens.count, width = shape.kv_heads * shape.head_dim;
  const auto k = [&](int t, int i) {
    return double{float_from_16_bit(made.tokens.codec, made.tokens.k[t * width + i])} -
           made.mean[i];
  };
  const auto v = [&](int t, int i) {
    return double{float_from_16_bit(made.tokens.codec, made.tokens.v[t * width + i])};
  };
  std::vector<double> mean_v(width), score(count);
  for (int t = 0; t < count; ++t)
    for (int i = 0; i < width; ++i) mean_v[i] += v(t, i) / count;
  for (int t = 0; t < count; ++t) {
    double weight = 0, squared = 0;
    for (int query = 0; query < q_len; ++query) {
      if (t > count - q_len + query) continue;
      for (int head = 0; head < shape.q_heads; ++head) {
        const int row = query * shape.q_heads + head, kv_head = head / shape.group();
        double dot = 0;
        for (int c = 0; c < shape.head_dim; ++c)
          dot += made.q[row * shape.head_dim + c] * k(t, kv_head * shape.head_dim + c);
        weight += std::exp(0.2 * dot - made.lse[row]);
      }
    }
    for (int i = 0; i < width; ++i) squared += std::pow(v(t, i) - mean_v[i], 2);
    score[t] = weight / (q_len * shape.q_heads) * std::sqrt(squared);
  }
  return score;
}

TEST(saliency, scores_are_the_formula) {
  const auto backend = make_engine("onednn");
  for (const int head_dim : {8, 64, 80}) {
    for (const int count : {5, 64, 65, 200}) {
      const KvShape shape = {.layers = 1, .q_heads = 6, .kv_heads = 2, .head_dim = head_dim};
      const int q_len = std::min(count, 33);
      for (const Codec codec : {Codec::kF16, Codec::kBf16}) {
        const Case made = make_case(shape, count, q_len, codec, 71);
        const std::vector<float> got = saliency(*backend, made, q_len);
        const std::vector<double> expected = expected_saliency(made, q_len);
        for (int t = 0; t < count; ++t)
          ASSERT_NEAR(got[t], expected[t], 1e-5 + 1e-4 * expected[t]) << "token " << t;
      }
    }
  }
}

TEST(saliency, engines_and_thread_counts_give_the_same_bits) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 1, .head_dim = 64};
  const Case made = make_case(shape, 500, 64, Codec::kF16, 73);
  const std::vector<float> one = saliency(*make_engine("onednn", 1), made, 64);
  EXPECT_EQ(one, saliency(*make_engine("onednn", 2), made, 64));
  EXPECT_EQ(one, saliency(*make_engine("reference", 2), made, 64));
}

TEST(saliency, tokens_alike_in_value_score_nothing) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 16};
  Case made = make_case(shape, 40, 8, Codec::kF16, 79);
  for (size_t i = 0; i < made.tokens.v.size(); ++i) made.tokens.v[i] = half_from_float(1.5f);
  for (const float score : saliency(*make_engine("onednn"), made, 8)) EXPECT_EQ(score, 0.0f);
}

TEST(saliency, more_queries_than_open_tokens_are_refused) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 16};
  const Case made = make_case(shape, 8, 8, Codec::kF16, 83);
  std::vector<float> score(8);
  const SaliencyItem item = {.shape = shape,
                             .q_len = 9,
                             .q = made.q.data(),
                             .lse = made.lse.data(),
                             .open = made.tokens.open(),
                             .score = score.data()};
  EXPECT_EQ(make_engine("onednn")->saliency(item).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace vkv
