// encode_test: records hold what their format says, within the error that their bits allow.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cpu/decode.h"
#include "tests/random_tokens.h"

namespace vkv {
namespace {

constexpr Codec kCodes[] = {Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1};

float value_of(const Tokens& tokens, bool is_k, int token, int kv_head, int channel) {
  const size_t at =
      (static_cast<size_t>(token) * tokens.shape.kv_heads + kv_head) * tokens.shape.head_dim +
      channel;
  return float_from_16_bit(tokens.codec, is_k ? tokens.k[at] : tokens.v[at]);
}

struct Decoded {
  std::vector<float> k, v;  // [tokens, head_dim] of one KV head
};

Decoded decoded(const KvShape& shape, const BlockView& view, int kv_head,
                const float* mean = nullptr) {
  Decoded result;
  result.k.resize(static_cast<size_t>(view.token_count) * shape.head_dim);
  result.v.resize(result.k.size());
  decode_head(shape, view, kv_head, mean, result.k.data(), result.v.data());
  return result;
}

ChannelScale scale_of(const Record& record, bool is_k, int kv_head, int channel) {
  const uint16_t* header = reinterpret_cast<const uint16_t*>(record.view.headers) +
                           record.layout.header_of(kv_head) / 2 +
                           (is_k ? 0 : 2 * record.layout.channels);
  return {float_from_half(header[channel]),
          float_from_half(header[record.layout.channels + channel])};
}

TEST(encode, i8_is_within_half_a_step_of_every_value) {
  const auto backend = make_engine("reference");
  for (const int head_dim : {64, 80, 128}) {
    const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = head_dim};
    const int block = tokens_per_block(head_dim);
    for (const int count : {1, 2, 31, 33, block - 1, block}) {
      const Tokens tokens = random_tokens(shape, count, 7, {.k_offset = 3, .v_offset = 1});
      const Record record = encode_rows(*backend, tokens, row_range(0, count), {});
      for (int head = 0; head < 2; ++head) {
        const Decoded result = decoded(shape, record.view, head);
        for (int t = 0; t < count; ++t) {
          for (int c = 0; c < head_dim; ++c) {
            for (const bool is_k : {true, false}) {
              const ChannelScale s = scale_of(record, is_k, head, c);
              // fp16 scale and zero each add up to half a unit of their last place.
              const float bound = s.scale / 2 + (255 * s.scale + std::abs(s.zero)) * 0x1p-11f;
              const float value = value_of(tokens, is_k, t, head, c);
              const float got = (is_k ? result.k : result.v)[t * head_dim + c];
              ASSERT_LE(std::abs(got - value), bound) << "token " << t << " channel " << c;
            }
          }
        }
      }
    }
  }
}

// Fourth powers for I4, squares for I2.
TEST(encode, shrinking_the_range_never_costs_what_it_is_chosen_by) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 128, 11);
  for (const Codec codec : {Codec::kI4, Codec::kI2}) {
    const Record record =
        encode_rows(*backend, tokens, row_range(0, 128), {.k_codec = codec, .v_codec = codec});
    const Decoded result = decoded(shape, record.view, 0);
    const float limit = static_cast<float>(code_max(bits_of(codec)));
    const int power = codec == Codec::kI4 ? 4 : 2;
    double shrunk = 0, whole = 0;
    for (int c = 0; c < 128; ++c) {
      float min = INFINITY, max = -INFINITY;
      for (int t = 0; t < 128; ++t) {
        min = std::min(min, value_of(tokens, true, t, 0, c));
        max = std::max(max, value_of(tokens, true, t, 0, c));
      }
      const float step = (max - min) / limit;
      double channel_shrunk = 0, channel_whole = 0;
      for (int t = 0; t < 128; ++t) {
        const float value = value_of(tokens, true, t, 0, c);
        const float nearest = min + std::rint((value - min) / step) * step;
        channel_shrunk += std::pow(result.k[t * 128 + c] - value, power);
        channel_whole += std::pow(nearest - value, power);
      }
      ASSERT_LE(channel_shrunk,
                channel_whole * 1.03);  // the whole range is not rounded to fp16 here
      shrunk += channel_shrunk;
      whole += channel_whole;
    }
    EXPECT_LT(shrunk, whole * (codec == Codec::kI2 ? 0.75 : 0.9));
  }
}

TEST(encode, i1_finds_two_levels_and_beats_mean_plus_or_minus_mean_deviation) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  Tokens tokens = random_tokens(shape, 100, 13, {.k_offset = 2});
  for (int t = 0; t < 100; ++t)  // one channel of two values, seldom the upper one
    tokens.k[t * 64 + 7] = half_from_float(t % 10 == 0 ? 5.0f : 1.0f);
  const Record record = encode_rows(*backend, tokens, row_range(0, 100),
                                    {.k_codec = Codec::kI1, .v_codec = Codec::kI1});
  const Decoded result = decoded(shape, record.view, 0);
  for (int c = 0; c < 64; ++c) {
    double mean = 0, deviation = 0, error = 0, simple_error = 0;
    for (int t = 0; t < 100; ++t) mean += value_of(tokens, true, t, 0, c) / 100;
    for (int t = 0; t < 100; ++t)
      deviation += std::abs(value_of(tokens, true, t, 0, c) - mean) / 100;
    for (int t = 0; t < 100; ++t) {
      const double value = value_of(tokens, true, t, 0, c);
      const double simple = value >= mean ? mean + deviation : mean - deviation;
      error += std::pow(result.k[t * 64 + c] - value, 2);
      simple_error += std::pow(simple - value, 2);
      if (c == 7) {
        EXPECT_NEAR(result.k[t * 64 + c], value, 1e-2);
      }
    }
    EXPECT_LE(error, simple_error * 1.002) << "channel " << c;
  }
}

TEST(encode, sixteen_bit_blocks_keep_the_bits) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 3, .kv_heads = 3, .head_dim = 80};
  for (const Codec codec : {Codec::kF16, Codec::kBf16}) {
    const Tokens tokens = random_tokens(shape, 45, 17, {.k_offset = 100}, codec);
    const std::vector<float> mean(240, 5.0f);  // must be ignored
    const Record record = encode_rows(*backend, tokens, row_range(0, 45),
                                      {.k_codec = codec, .v_codec = codec, .k_mean = mean.data()});
    EXPECT_EQ(record.layout.payload_offset(), 0u);
    for (int head = 0; head < 3; ++head) {
      const Decoded result = decoded(shape, record.view, head, mean.data());
      for (int t = 0; t < 45; ++t) {
        for (int c = 0; c < 80; ++c) {
          ASSERT_EQ(result.k[t * 80 + c], value_of(tokens, true, t, head, c));
          ASSERT_EQ(result.v[t * 80 + c], value_of(tokens, false, t, head, c));
        }
      }
    }
  }
}

TEST(encode, rows_are_gathered_in_the_given_order) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 8};
  const Tokens tokens = random_tokens(shape, 50, 19);
  const std::vector<uint32_t> rows = {49, 3, 3, 17, 0};
  const Record record =
      encode_rows(*backend, tokens, rows, {.k_codec = Codec::kF16, .v_codec = Codec::kF16});
  const Decoded result = decoded(shape, record.view, 0);
  for (size_t t = 0; t < rows.size(); ++t)
    for (int c = 0; c < 8; ++c)
      EXPECT_EQ(result.k[t * 8 + c], value_of(tokens, true, static_cast<int>(rows[t]), 0, c));
}

TEST(encode, a_constant_channel_has_scale_zero_and_is_exact) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  Tokens tokens = random_tokens(shape, 40, 23);
  for (int t = 0; t < 40; ++t) {
    tokens.k[t * 32 + 5] = half_from_float(0.1f);
    tokens.v[t * 32 + 31] = half_from_float(-1e3f);
  }
  for (const Codec codec : kCodes) {
    const Record record =
        encode_rows(*backend, tokens, row_range(0, 40), {.k_codec = codec, .v_codec = codec});
    EXPECT_EQ(scale_of(record, true, 0, 5).scale, 0.0f);
    EXPECT_EQ(scale_of(record, false, 0, 31).scale, 0.0f);
    const Decoded result = decoded(shape, record.view, 0);
    for (int t = 0; t < 40; ++t) {
      EXPECT_EQ(result.k[t * 32 + 5], float_from_half(half_from_float(0.1f)));
      EXPECT_EQ(result.v[t * 32 + 31], -1e3f);
    }
  }
}

TEST(encode, one_token_is_exact_in_every_codec) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 96};
  const Tokens tokens = random_tokens(shape, 1, 29);
  for (const Codec codec : kCodes) {
    const Record record =
        encode_rows(*backend, tokens, row_range(0, 1), {.k_codec = codec, .v_codec = codec});
    const Decoded result = decoded(shape, record.view, 0);
    for (int c = 0; c < 96; ++c) EXPECT_EQ(result.k[c], value_of(tokens, true, 0, 0, c));
  }
}

TEST(encode, an_offset_of_a_thousand_costs_nothing_with_a_mean) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 128, 31, {.k_offset = 1000}, Codec::kF16);
  std::vector<float> mean(128);
  const std::vector<uint32_t> rows = row_range(0, 128);
  ASSERT_TRUE(backend->mean_key(shape, tokens.open(), rows, mean.data()).ok());
  const Record record = encode_rows(*backend, tokens, rows, {.k_mean = mean.data()});
  EXPECT_TRUE(record.view.centred);
  for (int head = 0; head < 2; ++head) {
    const Decoded result = decoded(shape, record.view, head, mean.data());
    for (int t = 0; t < 128; ++t)
      for (int c = 0; c < 64; ++c)
        ASSERT_NEAR(result.k[t * 64 + c], value_of(tokens, true, t, head, c), 0.02)
            << "mean " << mean[head * 64 + c];
  }
}

TEST(encode, mean_key_is_the_mean_of_the_chosen_rows) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 6, .kv_heads = 3, .head_dim = 72};
  const Tokens tokens = random_tokens(shape, 90, 37, {.k_offset = 10});
  const std::vector<uint32_t> rows = row_range(10, 77);
  std::vector<float> mean(3 * 72, NAN);
  ASSERT_TRUE(backend->mean_key(shape, tokens.open(), rows, mean.data()).ok());
  for (int head = 0; head < 3; ++head) {
    for (int c = 0; c < 72; ++c) {
      double sum = 0;
      for (const uint32_t row : rows) sum += value_of(tokens, true, static_cast<int>(row), head, c);
      EXPECT_NEAR(mean[head * 72 + c], sum / static_cast<double>(rows.size()), 1e-5);
    }
  }
}

TEST(encode, the_smallest_values_neither_vanish_nor_blow_up) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  Tokens tokens = random_tokens(shape, 64, 41);
  for (size_t i = 0; i < tokens.k.size(); ++i) {
    tokens.k[i] = static_cast<uint16_t>(i % 700 | (i % 2) << 15);  // fp16 subnormals
    tokens.v[i] = static_cast<uint16_t>(i % 2);                    // range 2^-24: scales underflow
  }
  for (const Codec codec : kCodes) {
    const Record record =
        encode_rows(*backend, tokens, row_range(0, 64), {.k_codec = codec, .v_codec = codec});
    const Decoded result = decoded(shape, record.view, 0);
    for (int t = 0; t < 64; ++t) {
      for (int c = 0; c < 32; ++c) {
        EXPECT_NEAR(result.k[t * 32 + c], value_of(tokens, true, t, 0, c), 1400 * 0x1p-24);
        EXPECT_NEAR(result.v[t * 32 + c], value_of(tokens, false, t, 0, c), 0x1p-24);
      }
    }
  }
}

TEST(encode, what_is_not_finite_is_refused_by_name) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 40};
  for (const Codec codec : {Codec::kF16, Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1}) {
    for (const uint16_t bad : {uint16_t{0x7c00}, uint16_t{0xfc00}, uint16_t{0x7e00}}) {
      Tokens tokens = random_tokens(shape, 20, 43);
      tokens.v[(11 * 2 + 1) * 40 + 37] = bad;
      const std::vector<uint32_t> rows = row_range(0, 20);
      EncodeItem item = encode_item(tokens, rows, {.k_codec = codec, .v_codec = codec});
      AlignedBytes bytes(block_layout(2, 40, codec, codec, 20).record_bytes());
      item.record = bytes.span();
      const Status status = backend->encode({&item, 1});
      EXPECT_EQ(status.code(), Code::kInvalidArgument);
      EXPECT_EQ(status.message(), "V of KV head 1, channel 37 holds a value that is not finite");
    }
  }
}

TEST(encode, what_overflows_fp16_is_refused_by_name) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  for (const Codec codec : {Codec::kF16, Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1}) {
    Tokens tokens = random_tokens(shape, 20, 47, {}, Codec::kBf16);
    tokens.k[7 * 32 + 3] = bfloat_from_float(-3e38f);
    tokens.k[8 * 32 + 3] = bfloat_from_float(3e38f);
    const std::vector<uint32_t> rows = row_range(0, 20);
    EncodeItem item = encode_item(tokens, rows, {.k_codec = codec, .v_codec = codec});
    AlignedBytes bytes(block_layout(1, 32, codec, codec, 20).record_bytes());
    item.record = bytes.span();
    const Status status = backend->encode({&item, 1});
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("K of KV head 0, channel 3 "), std::string::npos)
        << status.message();
  }
}

TEST(encode, shared_headers_give_the_codes_of_an_own_header) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 96};
  const Tokens tokens = random_tokens(shape, 128, 53);
  const std::vector<uint32_t> rows = row_range(0, 128);
  for (const Codec codec : kCodes) {
    BlockOptions options = {.k_codec = codec, .v_codec = codec};
    const Record own = encode_rows(*backend, tokens, rows, options);

    AlignedBytes headers(own.layout.headers_bytes(), 0xff);
    EncodeItem item = encode_item(tokens, rows, options);
    item.record = headers.span();
    ASSERT_TRUE(backend->encode_headers(item).ok());
    EXPECT_EQ(std::memcmp(headers.data(), own.bytes.data(), headers.byte_count()), 0);

    options.shared_headers = headers.data();
    const Record shared = encode_rows(*backend, tokens, rows, options);
    EXPECT_EQ(shared.layout.record_bytes(), own.layout.payload_bytes());
    EXPECT_EQ(std::memcmp(shared.view.payload, own.view.payload, own.layout.payload_bytes()), 0);
  }
}

TEST(encode, segment_headers_serve_blocks_of_a_longer_window) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 1000, 59);
  const std::vector<uint32_t> all = row_range(0, 1000), some = row_range(300, 556);
  BlockOptions options = {.k_codec = Codec::kI1, .v_codec = Codec::kI1};
  AlignedBytes headers(block_layout(1, 64, Codec::kI1, Codec::kI1, 1).headers_bytes());
  EncodeItem item = encode_item(tokens, all, options);
  item.record = headers.span();
  ASSERT_TRUE(backend->encode_headers(item).ok());
  options.shared_headers = headers.data();
  const Record record = encode_rows(*backend, tokens, some, options);
  const Decoded result = decoded(shape, record.view, 0);
  double squared = 0;
  for (int t = 0; t < 256; ++t)
    for (int c = 0; c < 64; ++c)
      squared += std::pow(result.k[t * 64 + c] - value_of(tokens, true, 300 + t, 0, c), 2);
  // The best one-bit code of a normal distribution has a squared error of 1 - 2/pi = 0.363.
  EXPECT_LT(squared / (256 * 64), 0.40);
}

TEST(encode, a_record_does_not_depend_on_threads_or_on_company) {
  const auto one = make_engine("reference", 1), many = make_engine("reference", 4);
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 4, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 300, 61);
  for (const Codec codec : kCodes) {
    const BlockOptions options = {.k_codec = codec, .v_codec = Codec::kI2};
    std::vector<std::vector<uint32_t>> rows;
    std::vector<AlignedBytes> bytes;
    std::vector<EncodeItem> items;
    for (int begin = 0; begin < 300; begin += 60) rows.push_back(row_range(begin, begin + 60));
    for (size_t i = 0; i < rows.size(); ++i)
      bytes.emplace_back(block_layout(4, 128, codec, Codec::kI2, 60).record_bytes(), 0xff);
    for (size_t i = 0; i < rows.size(); ++i) {
      items.push_back(encode_item(tokens, rows[i], options));
      items.back().record = bytes[i].span();
    }
    ASSERT_TRUE(many->encode(items).ok());
    for (size_t i = 0; i < rows.size(); ++i) {
      const Record alone = encode_rows(*one, tokens, rows[i], options);
      EXPECT_EQ(std::memcmp(alone.bytes.data(), bytes[i].data(), bytes[i].byte_count()), 0);
    }
  }
}

TEST(encode, calls_that_make_no_sense_are_refused) {
  const auto backend = make_engine("reference");
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 10, 67);
  std::vector<uint32_t> rows = {0, 1};
  AlignedBytes bytes(block_layout(2, 64, Codec::kI8, Codec::kI8, 2).record_bytes());
  const EncodeItem good = {.shape = shape,
                           .k_codec = Codec::kI8,
                           .v_codec = Codec::kI8,
                           .source = tokens.open(),
                           .rows = rows,
                           .record = bytes.span()};
  ASSERT_TRUE(backend->encode({&good, 1}).ok());
  const auto code_of = [&](auto change) {
    EncodeItem item = good;
    change(item);
    return backend->encode({&item, 1}).code();
  };
  EXPECT_EQ(code_of([](EncodeItem& item) { item.rows = {}; }), Code::kInvalidArgument);
  EXPECT_EQ(code_of([](EncodeItem& item) { item.record = item.record.first(64); }),
            Code::kInvalidArgument);
  EXPECT_EQ(code_of([](EncodeItem& item) { item.k_codec = static_cast<Codec>(99); }),
            Code::kUnsupported);
  EXPECT_EQ(code_of([](EncodeItem& item) { item.shape.head_dim = 60; }), Code::kUnsupported);
  EXPECT_EQ(code_of([](EncodeItem& item) { item.shape.q_heads = 3; }), Code::kInvalidArgument);
  const std::vector<uint32_t> outside = {0, 10};
  EXPECT_EQ(code_of([&](EncodeItem& item) { item.rows = outside; }), Code::kInvalidArgument);
  const std::vector<uint32_t> too_many(257, 0);
  EXPECT_EQ(code_of([&](EncodeItem& item) { item.rows = too_many; }), Code::kInvalidArgument);
}

}  // namespace
}  // namespace vkv
