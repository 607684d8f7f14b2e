// random_tokens.h: K and V of random tokens, and records made of them, for the tests of cpu/.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cpu/cpu_backend.h"
#include "runtime/base/backend.h"
#include "runtime/base/codec.h"

namespace vkv {

inline std::unique_ptr<Backend> make_engine(std::string_view engine, int threads = 2) {
  Result<std::unique_ptr<Backend>> backend =
      make_cpu_backend({.threads = threads, .engine = engine});
  EXPECT_TRUE(backend.ok()) << backend.status().message();
  return std::move(backend.value());
}

struct TokenSpread {
  float k_offset = 0.0f;  // of each channel: uniform in +- this
  float k_sigma = 1.0f;
  float v_offset = 0.0f;
  float v_sigma = 1.0f;
};

// 16-bit tokens with the memory behind them.
struct Tokens {
  KvShape shape;
  Codec codec = Codec::kF16;
  int count = 0;
  std::vector<uint16_t> k, v;  // [count, kv_heads, head_dim]

  OpenTokens open() const {
    return {.codec = codec, .token_count = count, .k = k.data(), .v = v.data()};
  }

  // Tokens [begin, end) of these.
  OpenTokens open(int begin, int end) const {
    const size_t width = static_cast<size_t>(shape.kv_heads) * shape.head_dim;
    return {.codec = codec,
            .token_count = end - begin,
            .k = k.data() + begin * width,
            .v = v.data() + begin * width};
  }
};

inline Tokens random_tokens(const KvShape& shape, int count, uint32_t seed,
                            const TokenSpread& spread = {}, Codec codec = Codec::kF16) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  const size_t width = static_cast<size_t>(shape.kv_heads) * shape.head_dim;
  std::vector<float> k_offset(width), v_offset(width);
  for (float& offset : k_offset) offset = spread.k_offset * uniform(random);
  for (float& offset : v_offset) offset = spread.v_offset * uniform(random);

  Tokens tokens = {.shape = shape, .codec = codec, .count = count};
  for (size_t at = 0; at < static_cast<size_t>(count) * width; ++at) {
    const float k = k_offset[at % width] + spread.k_sigma * normal(random);
    const float v = v_offset[at % width] + spread.v_sigma * normal(random);
    tokens.k.push_back(float_to_16_bit(codec, k));
    tokens.v.push_back(float_to_16_bit(codec, v));
  }
  return tokens;
}

// Bytes that begin at a 64-byte boundary, as records must.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t count = 0, int fill = 0)
      : lines_((count + 63) / 64), byte_count_(count) {
    if (count > 0) std::memset(data(), fill, lines_.size() * 64);
  }
  std::byte* data() { return reinterpret_cast<std::byte*>(lines_.data()); }
  const std::byte* data() const { return reinterpret_cast<const std::byte*>(lines_.data()); }
  size_t byte_count() const { return byte_count_; }
  std::span<std::byte> span() { return {data(), byte_count_}; }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
  size_t byte_count_;
};

// An encoded block with the memory behind it.
struct Record {
  AlignedBytes bytes;
  BlockLayout layout;
  BlockView view;
};

struct BlockOptions {
  Codec k_codec = Codec::kI8;
  Codec v_codec = Codec::kI8;
  const float* k_mean = nullptr;
  const std::byte* shared_headers = nullptr;
  bool k_rotated = false;
  bool v_per_token = false;
};

inline EncodeItem encode_item(const Tokens& tokens, std::span<const uint32_t> rows,
                              const BlockOptions& options) {
  return {.shape = tokens.shape,
          .k_codec = options.k_codec,
          .v_codec = options.v_codec,
          .k_rotated = options.k_rotated,
          .v_per_token = options.v_per_token,
          .source = tokens.open(),
          .rows = rows,
          .k_mean = options.k_mean,
          .shared_headers = options.shared_headers};
}

// The record starts as 0xff: what the encoder does not write shows.
inline Record encode_rows(Backend& backend, const Tokens& tokens, std::span<const uint32_t> rows,
                          const BlockOptions& options) {
  Record record;
  EncodeItem item = encode_item(tokens, rows, options);
  record.layout = block_layout(item);
  record.bytes = AlignedBytes(record.layout.record_bytes(), 0xff);
  item.record = record.bytes.span();
  const Status status = backend.encode({&item, 1});
  EXPECT_TRUE(status.ok()) << status.message();
  record.view = {
      .k_codec = options.k_codec,
      .v_codec = options.v_codec,
      .centred = options.k_mean != nullptr && !is_16_bit(options.k_codec),
      .k_rotated = options.k_rotated,
      .v_per_token = options.v_per_token,
      .token_count = static_cast<int>(rows.size()),
      .headers = options.shared_headers != nullptr ? options.shared_headers : record.bytes.data(),
      .payload = record.bytes.data() + record.layout.payload_offset()};
  return record;
}

inline std::vector<uint32_t> row_range(int begin, int end) {
  std::vector<uint32_t> rows(static_cast<size_t>(end - begin));
  std::iota(rows.begin(), rows.end(), static_cast<uint32_t>(begin));
  return rows;
}

// Tokens [0, count) as blocks of at most `block_tokens`.
inline std::vector<Record> encode_all(Backend& backend, const Tokens& tokens, int count,
                                      int block_tokens, const BlockOptions& options) {
  std::vector<Record> records;
  for (int begin = 0; begin < count; begin += block_tokens)
    records.push_back(encode_rows(
        backend, tokens, row_range(begin, std::min(count, begin + block_tokens)), options));
  return records;
}

// The first `count` tokens in blocks that share their headers.
struct Segment {
  AlignedBytes headers;
  std::vector<Record> records;
};

inline Segment encode_segment(Backend& backend, const Tokens& tokens, int count, int block_tokens,
                              BlockOptions options) {
  const KvShape& shape = tokens.shape;
  Segment segment;
  segment.headers =
      AlignedBytes(block_layout(shape.kv_heads, shape.head_dim, options.k_codec, options.v_codec, 1)
                       .headers_bytes());
  const std::vector<uint32_t> rows = row_range(0, count);
  EncodeItem item = encode_item(tokens, rows, options);
  item.record = segment.headers.span();
  const Status status = backend.encode_headers(item);
  EXPECT_TRUE(status.ok()) << status.message();
  options.shared_headers = segment.headers.data();
  segment.records = encode_all(backend, tokens, count, block_tokens, options);
  return segment;
}

inline std::vector<BlockView> views_of(const std::vector<Record>& records) {
  std::vector<BlockView> views;
  for (const Record& record : records) views.push_back(record.view);
  return views;
}

}  // namespace vkv
