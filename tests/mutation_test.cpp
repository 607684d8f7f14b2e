// mutation_test: the gate on attention's output holds for right records of hard data, and fails for
// each wrong way of reading or writing them.
// SPDX-License-Identifier: Apache-2.0
//
// The gate: the output over encoded blocks and open tokens against that over the 16-bit values,
// each channel relative to the standard deviation of its V.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "tests/attend_comparison.h"

namespace vkv {
namespace {

constexpr int kHeadDim = 128;
constexpr int kBlockTokens = 128;
constexpr int kOpenTokens = 24;
constexpr KvShape kShape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = kHeadDim};

struct Data {
  std::string name;
  Tokens tokens;
  int sealed;  // in blocks; the rest stays open
  std::vector<float> q;
};

// Normal values with offsets in some channels, as Qwen2's biases give to K, and a second block that
// looks different from the first, as another frame does; after change(k, v, token, channel, q).
template <class Change>
Data data_of(const std::string& name, int tail, const Change& change) {
  const int sealed = kBlockTokens + tail;
  Data data = {name, random_tokens(kShape, sealed + kOpenTokens, 301), sealed,
               random_queries(kShape, 1, 302)};
  for (size_t i = 0; i < data.tokens.k.size(); ++i) {
    const int channel = static_cast<int>(i % kHeadDim);
    const int token = static_cast<int>(i / (kHeadDim * 2));
    float k = float_from_half(data.tokens.k[i]);
    float v = float_from_half(data.tokens.v[i]);
    change(k, v, token, channel, data.q);
    if (channel % 32 == 0) k += channel % 64 == 0 ? 1000.0f : -1000.0f;
    if (token >= kBlockTokens) v = 2.0f * v + 3.0f;
    if (channel % 16 == 0) v += 700.0f;
    data.tokens.k[i] = half_from_float(k);
    data.tokens.v[i] = half_from_float(v);
  }
  return data;
}

std::vector<Data> hard_data() {
  using Queries = std::vector<float>;
  std::vector<Data> all;
  const auto as_it_is = [](float&, float&, int, int, const Queries&) {};
  all.push_back(data_of("offsets of 1e3", 128, as_it_is));
  all.push_back(
      data_of("one channel x100", 128, [](float& k, float& v, int, int channel, const Queries&) {
        if (channel == 5) k *= 100.0f;
        if (channel == 9) v *= 100.0f;
      }));
  all.push_back(
      data_of("constant channels", 128, [](float& k, float& v, int, int channel, const Queries&) {
        if (channel < 4) k = 7.1f;
        if (channel < 4) v = -2.3f;
      }));
  all.push_back(
      data_of("sinks of 30x norm", 128, [](float& k, float&, int token, int, const Queries&) {
        if (token < 2) k *= 30.0f;
      }));
  all.push_back(
      data_of("near ties", 128, [](float& k, float&, int token, int channel, const Queries& q) {
        const float direction = q[static_cast<size_t>(channel)];
        if (token % 64 == 3) k = direction + 1e-3f * k;
      }));
  for (const int tail : {1, 2, 31, 33, 96, 127})
    all.push_back(data_of("a tail of " + std::to_string(tail), tail, as_it_is));
  return all;
}

// Encoded blocks, and how they are read.
struct Cache {
  std::vector<Record> records;
  std::vector<float> mean;
  bool knows_mean = true;
};

Cache encoded(const Data& data, const BlockOptions& codecs) {
  Cache cache;
  cache.mean.resize(2 * kHeadDim);
  EXPECT_TRUE(
      oracle()
          .mean_key(kShape, data.tokens.open(), row_range(0, kBlockTokens), cache.mean.data())
          .ok());
  BlockOptions options = codecs;
  options.k_mean = cache.mean.data();
  cache.records = encode_all(engine(), data.tokens, data.sealed, kBlockTokens, options);
  return cache;
}

// Largest error of a channel's output over the channel's standard deviation of V.
double output_error(Backend& backend, const Data& data, const Cache& cache) {
  const std::vector<BlockView> views = views_of(cache.records);
  AttendItem item =
      item_over(kShape, 1, data.q, views, data.tokens.open(data.sealed, data.tokens.count));
  if (cache.knows_mean) item.k_mean = cache.mean.data();
  const Partial got = attend(backend, item);
  const Partial exact = attend(oracle(), item_over(kShape, 1, data.q, {}, data.tokens.open()));

  double largest = 0;
  for (int head = 0; head < 2; ++head) {
    for (int c = 0; c < kHeadDim; ++c) {
      double sum = 0, squares = 0;
      for (int t = 0; t < data.tokens.count; ++t) {
        const double v = float_from_half(data.tokens.v[(t * 2 + head) * kHeadDim + c]);
        sum += v;
        squares += v * v;
      }
      const double count = data.tokens.count;
      const double variance = squares / count - sum * sum / count / count;
      const double unit = variance > 1e-3 ? std::sqrt(variance) : 1.0;
      for (int member = 0; member < 2; ++member) {
        const size_t at = static_cast<size_t>(head * 2 + member) * kHeadDim + c;
        const double error = std::abs(double{got.out[at]} - double{exact.out[at]}) / unit;
        largest = error <= largest ? largest : error;  // NaN stays
      }
    }
  }
  return largest;
}

// ---- The mutations.

uint16_t* header_of(Record& record) { return reinterpret_cast<uint16_t*>(record.bytes.data()); }

void swap_scale_and_zero(Cache& cache) {
  for (Record& record : cache.records)
    for (int part = 0; part < 4; ++part)  // K and V of two heads
      for (int c = 0; c < kHeadDim; ++c)
        std::swap(header_of(record)[part * 2 * kHeadDim + c],
                  header_of(record)[part * 2 * kHeadDim + kHeadDim + c]);
}

void drop_mean(Cache& cache) { cache.knows_mean = false; }

void round_zeros_to_bfloat(Cache& cache) {
  for (Record& record : cache.records) {
    for (int part = 0; part < 4; ++part) {
      for (int c = 0; c < kHeadDim; ++c) {
        uint16_t& zero = header_of(record)[part * 2 * kHeadDim + kHeadDim + c];
        zero = half_from_float(float_from_bfloat(bfloat_from_float(float_from_half(zero))));
      }
    }
  }
}

void take_header_of_another_block(Cache& cache) {
  Record& first = cache.records.front();
  std::memcpy(first.bytes.data(), cache.records.back().bytes.data(), first.layout.headers_bytes());
}

void transpose_values(Cache& cache) {
  Record& record = cache.records.front();
  const int bits = bits_of(record.view.v_codec);
  const uint32_t mask = (1u << bits) - 1;
  for (int head = 0; head < 2; ++head) {
    auto* words = reinterpret_cast<uint32_t*>(record.bytes.data() + record.layout.payload_offset() +
                                              record.layout.v_of(head));
    for (int row = 0; row < kHeadDim; ++row) {
      for (int column = 0; column < row; ++column) {
        const CodePosition a = code_position(bits, kBlockTokens, row, column);
        const CodePosition b = code_position(bits, kBlockTokens, column, row);
        const uint32_t code_a = words[a.word] >> a.bit & mask;
        const uint32_t code_b = words[b.word] >> b.bit & mask;
        words[a.word] ^= (code_a ^ code_b) << a.bit;
        words[b.word] ^= (code_a ^ code_b) << b.bit;
      }
    }
  }
}

struct Mutation {
  std::string name;
  std::function<void(Cache&)> apply;
};

std::vector<Mutation> mutations() {
  return {{"scale and zero swapped", swap_scale_and_zero},
          {"mean dropped", drop_mean},
          {"V transposed", transpose_values},
          {"bf16 zero points", round_zeros_to_bfloat},
          {"a stale header", take_header_of_another_block}};
}

// A large channel takes more than its share of the error of scores, so its data have a bound of
// their own.
void expect_gate(const BlockOptions& codecs, double usual_bound, double large_channel_bound) {
  for (const Data& data : hard_data()) {
    const double bound = data.name == "one channel x100" ? large_channel_bound : usual_bound;
    for (Backend* backend : {&engine(), &oracle()}) {
      SCOPED_TRACE(testing::Message() << data.name << ", " << backend->name());
      EXPECT_LE(output_error(*backend, data, encoded(data, codecs)), bound);
      for (const Mutation& mutation : mutations()) {
        Cache wrong = encoded(data, codecs);
        mutation.apply(wrong);
        const double error = output_error(*backend, data, wrong);
        EXPECT_GT(error, bound) << mutation.name;
      }
    }
  }
}

TEST(mutation, the_gate_of_i8_holds_for_right_records_and_fails_for_every_mutation) {
  expect_gate({.k_codec = Codec::kI8, .v_codec = Codec::kI8}, 0.03, 0.03);
}

TEST(mutation, the_gate_of_i8_and_i4_holds_for_right_records_and_fails_for_every_mutation) {
  expect_gate({.k_codec = Codec::kI8, .v_codec = Codec::kI4}, 0.14, 0.25);
}

}  // namespace
}  // namespace vkv
