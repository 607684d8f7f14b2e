// encode_isa_test: the encoder's fast loops write the bytes of the plain ones, whatever the values.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <string>

#include "cpu/cpu_features.h"
#include "cpu/encode.h"
#include "tests/random_tokens.h"

namespace vkv {
namespace {

struct FastLoops {
  std::string name;
  const StripFunctions& functions;
};

std::vector<FastLoops> fast_loops() {
  std::vector<FastLoops> loops;
  if (cpu_has_avx2()) loops.push_back({"avx2", avx2::strip_functions()});
  if (cpu_has_avx512()) loops.push_back({"avx512", avx512::strip_functions()});
  return loops;
}

struct Encoded {
  Status status;
  AlignedBytes bytes;
};

Encoded encode_with(const StripFunctions& loops, EncodeItem item) {
  Encoded result = {{}, AlignedBytes(block_layout(item).record_bytes(), 0xff)};
  item.record = result.bytes.span();
  result.status = encode_blocks({&item, 1}, loops);
  return result;
}

// Returns whether the plain loops could encode the item.
bool expect_same_bytes(const EncodeItem& item) {
  const Encoded plain = encode_with(plain_strip_functions(), item);
  for (const FastLoops& fast : fast_loops()) {
    const Encoded got = encode_with(fast.functions, item);
    EXPECT_EQ(got.status.message(), plain.status.message()) << fast.name;
    if (!plain.status.ok()) continue;
    EXPECT_EQ(std::memcmp(got.bytes.data(), plain.bytes.data(), plain.bytes.byte_count()), 0)
        << fast.name << ", head_dim " << item.shape.head_dim << ", " << item.rows.size()
        << " tokens, codecs " << static_cast<int>(item.k_codec) << "/"
        << static_cast<int>(item.v_codec) << ", rotated " << item.k_rotated << ", per token "
        << item.v_per_token;
  }
  return plain.status.ok();
}

constexpr Codec kCodecs[] = {Codec::kF16, Codec::kBf16, Codec::kI8,
                             Codec::kI4,  Codec::kI2,   Codec::kI1};

bool is_power_of_two(int count) { return (count & (count - 1)) == 0; }

// Every codec, with and without a mean, rotated and per token where these may be. Returns how many
// of them could be encoded.
int expect_same_bytes_in_all_codecs(const Tokens& tokens, std::span<const uint32_t> rows,
                                    const float* mean) {
  int encoded = 0;
  for (const Codec codec : kCodecs) {
    EncodeItem item =
        encode_item(tokens, rows, {.k_codec = codec, .v_codec = codec, .k_mean = nullptr});
    encoded += expect_same_bytes(item);
    item.k_mean = mean;
    item.k_rotated = bits_of(codec) <= 2 && is_power_of_two(tokens.shape.head_dim);
    item.v_per_token = !is_16_bit(codec);
    if (bits_of(codec) <= 4) item.k_spread = 1.5f, item.v_spread = 0.75f;
    encoded += expect_same_bytes(item);
  }
  return encoded;
}

std::vector<float> mean_of(const Tokens& tokens, const StripFunctions& loops) {
  std::vector<float> mean(static_cast<size_t>(tokens.shape.kv_heads) * tokens.shape.head_dim, NAN);
  EXPECT_TRUE(
      mean_of_keys(tokens.shape, tokens.open(), row_range(0, tokens.count), mean.data(), loops)
          .ok());
  return mean;
}

TEST(encode_isa, every_shape_tail_and_codec_has_the_bytes_of_the_plain_loops) {
  std::mt19937 random(1);
  for (const int head_dim : {8, 16, 24, 64, 80, 96, 128, 256}) {
    const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = head_dim};
    const int block = tokens_per_block(head_dim);
    for (const Codec source : {Codec::kF16, Codec::kBf16}) {
      const Tokens tokens =
          random_tokens(shape, block + 9, 2, {.k_offset = 20, .v_offset = 1}, source);
      const std::vector<float> mean = mean_of(tokens, plain_strip_functions());
      for (const int count : {1, 7, 32, 33, 100, block - 1, block}) {
        std::vector<uint32_t> rows(static_cast<size_t>(count));
        for (uint32_t& row : rows) row = random() % static_cast<uint32_t>(tokens.count);
        EXPECT_EQ(expect_same_bytes_in_all_codecs(tokens, rows, mean.data()), 12);
      }
    }
  }
}

TEST(encode_isa, hard_values_have_the_bytes_of_the_plain_loops) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  const Tokens usual = random_tokens(shape, 150, 3);
  const std::vector<uint32_t> rows = row_range(0, 150);
  const std::vector<float> mean(64, 0.25f);
  const auto expect_all_encoded = [&](auto value_at) {
    Tokens tokens = usual;
    for (size_t i = 0; i < tokens.k.size(); ++i) {
      tokens.k[i] = value_at(i / 64, i % 64, tokens.k[i]);
      tokens.v[i] = value_at(i / 64, i % 64, tokens.v[i]);
    }
    EXPECT_EQ(expect_same_bytes_in_all_codecs(tokens, rows, mean.data()), 12);
  };
  using Bits = uint16_t;
  expect_all_encoded([](size_t, size_t, Bits) -> Bits { return 0; });
  expect_all_encoded([](size_t t, size_t c, Bits) -> Bits { return (t * 7 + c) % 2 ? 0x8000 : 0; });
  expect_all_encoded([](size_t t, size_t c, Bits) -> Bits {  // constants, all alike in a token
    return half_from_float(c < 32 ? static_cast<float>(c) : static_cast<float>(t));
  });
  expect_all_encoded([](size_t t, size_t c, Bits) -> Bits {  // subnormals of both signs
    return static_cast<Bits>((t * 37 + c * 11) % 1024 | (t % 2) << 15);
  });
  expect_all_encoded([](size_t t, size_t c, Bits) -> Bits {  // ties between codes
    return half_from_float(static_cast<float>((t * 13 + c) % 31) * 0.5f);
  });
  expect_all_encoded([](size_t t, size_t c, Bits bits) -> Bits {  // an outlier in each channel
    return t == c ? half_from_float(300.0f) : bits;
  });
  expect_all_encoded([](size_t, size_t c, Bits bits) -> Bits {  // an offset, and one channel x 100
    const float value = float_from_half(bits);
    return half_from_float(c == 5 ? 100 * value : value + 1000);
  });
}

TEST(encode_isa, ranges_at_the_edge_of_fp16_are_refused_alike) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  const std::vector<uint32_t> rows = row_range(0, 70);
  const std::vector<float> mean(32, 1.0f);
  std::mt19937 random(4);
  int encoded = 0, tried = 0;
  for (const float size : {3e4f, 6e4f, 7e4f, 1e5f, 4e5f, 9e5f, 1.5e7f, 2e7f, 1e38f, 3.3e38f}) {
    Tokens tokens = random_tokens(shape, 70, 5, {}, Codec::kBf16);
    for (int i = 0; i < 20; ++i) {
      const float value = random() % 2 ? size : -size;
      tokens.k[random() % tokens.k.size()] = bfloat_from_float(value);
      tokens.v[random() % tokens.v.size()] = bfloat_from_float(value);
    }
    encoded += expect_same_bytes_in_all_codecs(tokens, rows, mean.data());
    tried += 12;
  }
  EXPECT_GT(encoded, 20);
  EXPECT_LT(encoded, tried - 20);
}

TEST(encode_isa, random_bits_are_encoded_or_refused_alike) {
  std::mt19937 random(6);
  int encoded = 0;
  for (int round = 0; round < 40; ++round) {
    const int head_dim = 8 << random() % 5;
    const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = head_dim};
    Tokens tokens = {.shape = shape, .codec = round % 2 ? Codec::kF16 : Codec::kBf16, .count = 60};
    // Exponents from a band, so that some blocks have a range that can be stored.
    const int width = tokens.codec == Codec::kF16 ? 10 : 7;
    const uint32_t exponent_max = (1u << (15 - width)) - 2;
    const uint32_t least = random() % exponent_max, band = 1 + random() % 16;
    for (int i = 0; i < 60 * head_dim; ++i) {
      for (std::vector<uint16_t>* values : {&tokens.k, &tokens.v}) {
        const uint32_t exponent = std::min<uint32_t>(exponent_max, least + random() % band);
        values->push_back(static_cast<uint16_t>((random() & ((1u << width) - 1)) |
                                                exponent << width | (random() % 2) << 15));
      }
    }
    const std::vector<float> mean(static_cast<size_t>(head_dim), 0.0f);
    encoded += expect_same_bytes_in_all_codecs(tokens, row_range(0, 60), mean.data());
  }
  EXPECT_GT(encoded, 100);
}

TEST(encode_isa, means_and_segment_headers_have_the_bytes_of_the_plain_loops) {
  for (const int head_dim : {64, 72, 256}) {
    const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = head_dim};
    const Tokens tokens = random_tokens(shape, 2001, 7, {.k_offset = 50});
    const std::vector<float> mean = mean_of(tokens, plain_strip_functions());
    const std::vector<uint32_t> rows = row_range(0, 2001);
    for (const FastLoops& fast : fast_loops()) EXPECT_EQ(mean_of(tokens, fast.functions), mean);
    for (const Codec codec : {Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1}) {
      EncodeItem item =
          encode_item(tokens, rows, {.k_codec = codec, .v_codec = codec, .k_mean = mean.data()});
      item.k_rotated = bits_of(codec) <= 2 && is_power_of_two(head_dim);
      AlignedBytes plain(block_layout(item).headers_bytes(), 0xff);
      item.record = plain.span();
      ASSERT_TRUE(encode_segment_headers(item, plain_strip_functions()).ok());
      for (const FastLoops& fast : fast_loops()) {
        AlignedBytes headers(plain.byte_count(), 0xff);
        item.record = headers.span();
        ASSERT_TRUE(encode_segment_headers(item, fast.functions).ok());
        EXPECT_EQ(std::memcmp(headers.data(), plain.data(), plain.byte_count()), 0) << fast.name;
      }
      // Blocks of values that the shared header was not made for.
      const std::vector<uint32_t> some = row_range(5, 100);
      EncodeItem block =
          encode_item(tokens, some, {.k_codec = codec, .v_codec = codec, .k_mean = mean.data()});
      block.k_rotated = item.k_rotated;
      block.shared_headers = plain.data();
      EXPECT_TRUE(expect_same_bytes(block));
    }
  }
}

TEST(encode_isa, spread_moves_levels_apart_and_leaves_their_middle) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 128, 11, {.k_offset = 50});
  const std::vector<float> mean = mean_of(tokens, plain_strip_functions());
  EncodeItem item =
      encode_item(tokens, row_range(0, 128),
                  {.k_codec = Codec::kI1, .v_codec = Codec::kI1, .k_mean = mean.data()});
  const std::vector<uint32_t> rows = row_range(0, 128);
  item.rows = rows;
  const Encoded narrow = encode_with(plain_strip_functions(), item);
  item.k_spread = 1.5f;
  item.v_spread = 2.0f;
  const Encoded wide = encode_with(plain_strip_functions(), item);
  ASSERT_TRUE(narrow.status.ok() && wide.status.ok());

  const BlockLayout layout = block_layout(item);
  const auto* const was = reinterpret_cast<const uint16_t*>(narrow.bytes.data());
  const auto* const is = reinterpret_cast<const uint16_t*>(wide.bytes.data());
  for (size_t i = 0; i < layout.headers_bytes() / 2; ++i) {
    const size_t array = i / 64 % 4;  // s_k z_k s_v z_v
    const float spread = array < 2 ? 1.5f : 2.0f;
    const float found = float_from_half(was[i]);
    const float expected = array % 2 == 0
                               ? spread * found
                               : found - 0.5f * (spread - 1) * float_from_half(was[i - 64]);
    EXPECT_EQ(is[i], half_from_float(expected)) << i;
  }
  // The middle stays, but for its rounding.
  int moved = 0;
  for (size_t i = layout.payload_offset(); i < layout.record_bytes(); ++i)
    moved += std::popcount(static_cast<uint8_t>(narrow.bytes.data()[i] ^ wide.bytes.data()[i]));
  EXPECT_LT(moved, 0.01 * 8 * static_cast<double>(layout.payload_bytes()));
  item.k_spread = 5.0f;
  EXPECT_EQ(encode_with(plain_strip_functions(), item).status.code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace vkv
