// gpu_encode_test: the GPU's records have the bytes of the CPU's plain loops, whatever the values,
// and its errors their words.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <string>

#include "cpu/encode.h"
#include "kernels/encode.h"
#include "kernels/encode_bench.h"
#include "tests/gpu_arrays.h"
#include "tests/random_tokens.h"

namespace vkv {
namespace {

constexpr Codec kCodecs[] = {Codec::kF16, Codec::kBf16, Codec::kI8,
                             Codec::kI4,  Codec::kI2,   Codec::kI1};

// Tokens and mean with a copy of each that the GPU sees.
struct GpuTokens {
  Tokens tokens;
  std::vector<float> mean;
  CudaArray<uint16_t> k, v;
  CudaArray<float> gpu_mean;

  GpuTokens(Tokens given, std::vector<float> given_mean, CudaMemory memory = CudaMemory::kDevice)
      : tokens(std::move(given)),
        mean(std::move(given_mean)),
        k(to_gpu(tokens.k, memory)),
        v(to_gpu(tokens.v, memory)),
        gpu_mean(to_gpu(mean, memory)) {}

  OpenTokens gpu_open() const {
    return {.codec = tokens.codec, .token_count = tokens.count, .k = k.data(), .v = v.data()};
  }
};

class gpu_encode : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "no GPU";
    Result<GpuEncoder> made = GpuEncoder::make({.items_max = 16, .rows_max = 1024});
    ASSERT_TRUE(made.ok()) << made.status().message();
    encoder_ = std::make_unique<GpuEncoder>(std::move(made.value()));
    Result<CudaStream> stream = make_stream();
    ASSERT_TRUE(stream.ok()) << stream.status().message();
    stream_ = std::move(stream.value());
  }

  // Items of host memory: each is encoded by the CPU and the GPU, all of the latter in one call.
  // `source` is what they were made of. Returns how many the CPU could encode; of these records
  // must be equal, and the others' first error must be the GPU's.
  int expect_same_bytes(std::vector<EncodeItem> items, const GpuTokens& source,
                        CudaMemory memory = CudaMemory::kDevice,
                        const std::byte* gpu_headers = nullptr) {
    std::vector<AlignedBytes> expected;
    std::vector<EncodeItem> on_gpu;
    size_t record_bytes = 0;
    int encoded = 0;
    std::string first_error;
    std::vector<bool> is_encoded;
    for (EncodeItem& item : items) {
      expected.emplace_back(block_layout(item).record_bytes(), 0xee);
      item.record = expected.back().span();
      const Status status = encode_blocks({&item, 1}, plain_strip_functions());
      is_encoded.push_back(status.ok());
      encoded += status.ok();
      if (!status.ok() && first_error.empty()) first_error = status.message();
      record_bytes += round_up_bytes(item.record.size(), 256);
    }
    const std::vector<uint8_t> poison(record_bytes, 0xff);
    const CudaArray<uint8_t> records = to_gpu(poison, memory);
    size_t at = 0;
    for (EncodeItem item : items) {
      item.source = source.gpu_open();
      if (item.k_mean != nullptr) item.k_mean = source.gpu_mean.data();
      if (item.shared_headers != nullptr) item.shared_headers = gpu_headers;
      item.record = {reinterpret_cast<std::byte*>(records.data()) + at, item.record.size()};
      at += round_up_bytes(item.record.size(), 256);
      on_gpu.push_back(item);
    }
    const Status queued = encoder_->encode(on_gpu, stream_.get());
    EXPECT_TRUE(queued.ok()) << queued.message();
    EXPECT_EQ(encoder_->check(stream_.get()).message(), first_error);

    const std::vector<uint8_t> got = from_gpu(records);
    at = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      const EncodeItem& item = items[i];
      if (is_encoded[i]) expect_equal(item, expected[i], got.data() + at);
      at += item.record.size();
      for (; at % 256 != 0; ++at) EXPECT_EQ(got[at], 0xff) << "written behind the record";
    }
    return encoded;
  }

  static void expect_equal(const EncodeItem& item, const AlignedBytes& expected,
                           const uint8_t* got) {
    const auto* want = reinterpret_cast<const uint8_t*>(expected.data());
    const size_t count = expected.byte_count();
    if (std::memcmp(got, want, count) == 0) return;
    size_t first = 0, different = 0;
    for (size_t i = count; i-- > 0;)
      if (got[i] != want[i]) first = i, ++different;
    ADD_FAILURE() << different << " of " << count << " bytes differ, the first at " << first
                  << " (payload from " << block_layout(item).payload_offset() << "): got "
                  << int{got[first]} << ", expected " << int{want[first]} << "; head_dim "
                  << item.shape.head_dim << ", " << item.rows.size() << " tokens, codecs "
                  << name(item.k_codec) << "/" << name(item.v_codec) << ", rotated "
                  << item.k_rotated << ", per token " << item.v_per_token << ", centred "
                  << (item.k_mean != nullptr) << ", source " << name(item.source.codec);
  }

  std::unique_ptr<GpuEncoder> encoder_;
  CudaStream stream_;
};

// Every codec alone and beside another, with and without a mean, rotated and per token where these
// may be, spread.
std::vector<EncodeItem> all_variants(const GpuTokens& source, std::span<const uint32_t> rows) {
  std::vector<EncodeItem> items;
  const bool rotates = std::has_single_bit(static_cast<unsigned>(source.tokens.shape.head_dim));
  for (size_t i = 0; i < std::size(kCodecs); ++i) {
    const Codec codec = kCodecs[i];
    EncodeItem item =
        encode_item(source.tokens, rows, {.k_codec = codec, .v_codec = codec, .k_mean = nullptr});
    items.push_back(item);
    item.k_mean = source.mean.data();
    item.v_per_token = !is_16_bit(codec);
    if (bits_of(codec) <= 4) item.k_spread = 1.5f, item.v_spread = 0.75f;
    items.push_back(item);
    item.k_rotated = bits_of(codec) <= 2 && rotates;
    item.v_codec = kCodecs[(i + 2) % std::size(kCodecs)];
    item.v_per_token = false;
    item.k_spread = item.v_spread = 1.0f;
    items.push_back(item);
  }
  return items;
}

std::vector<float> mean_of(const Tokens& tokens) {
  std::vector<float> mean(static_cast<size_t>(tokens.shape.kv_heads) * tokens.shape.head_dim, NAN);
  EXPECT_TRUE(mean_of_keys(tokens.shape, tokens.open(), row_range(0, tokens.count), mean.data(),
                           plain_strip_functions())
                  .ok());
  return mean;
}

TEST_F(gpu_encode, every_shape_tail_and_codec_has_the_bytes_of_the_cpu) {
  std::mt19937 random(1);
  for (const int head_dim : {8, 16, 24, 64, 80, 96, 128, 256}) {
    const KvShape shape = {.layers = 1, .q_heads = 3, .kv_heads = 3, .head_dim = head_dim};
    const int block = tokens_per_block(head_dim);
    for (const Codec codec : {Codec::kF16, Codec::kBf16}) {
      Tokens tokens = random_tokens(shape, block + 9, 2, {.k_offset = 20, .v_offset = 1}, codec);
      std::vector<float> mean = mean_of(tokens);
      const GpuTokens source(std::move(tokens), std::move(mean));
      for (const int count : {1, 7, 32, 33, 64, 100, block - 1, block}) {
        // Gathered in any order, some twice, or one run that does not begin at 0.
        std::vector<uint32_t> rows(static_cast<size_t>(count));
        for (uint32_t& row : rows) row = random() % static_cast<uint32_t>(source.tokens.count);
        EXPECT_EQ(expect_same_bytes(all_variants(source, rows), source), 18);
        EXPECT_EQ(expect_same_bytes(all_variants(source, row_range(5, 5 + count)), source), 18);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(gpu_encode, hard_values_have_the_bytes_of_the_cpu) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  const Tokens usual = random_tokens(shape, 256, 3);
  const auto expect_all_encoded = [&](auto value_at) {
    Tokens tokens = usual;
    for (size_t i = 0; i < tokens.k.size(); ++i) {
      tokens.k[i] = value_at(i / 64, i % 64, tokens.k[i]);
      tokens.v[i] = value_at(i / 64, i % 64, tokens.v[i]);
    }
    const GpuTokens source(std::move(tokens), std::vector<float>(64, 0.25f));
    for (const int count : {50, 128, 150, 256})
      EXPECT_EQ(expect_same_bytes(all_variants(source, row_range(0, count)), source), 18);
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
  expect_all_encoded([](size_t t, size_t c, Bits) -> Bits {  // two values, or one beside another
    return half_from_float(t % (c + 1) == 0 ? 5.0f : 1.0f);
  });
  expect_all_encoded([](size_t, size_t c, Bits bits) -> Bits {  // an offset, and one channel x 100
    const float value = float_from_half(bits);
    return half_from_float(c == 5 ? 100 * value : value + 1000);
  });
}

TEST_F(gpu_encode, ranges_at_the_edge_of_fp16_are_refused_alike) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 32};
  const std::vector<uint32_t> rows = row_range(0, 70);
  std::mt19937 random(4);
  int encoded = 0, tried = 0;
  for (const float size : {3e4f, 6e4f, 7e4f, 1e5f, 4e5f, 9e5f, 1.5e7f, 2e7f, 1e38f, 3.3e38f}) {
    Tokens tokens = random_tokens(shape, 70, 5, {}, Codec::kBf16);
    for (int i = 0; i < 20; ++i) {
      const float value = random() % 2 ? size : -size;
      tokens.k[random() % tokens.k.size()] = bfloat_from_float(value);
      tokens.v[random() % tokens.v.size()] = bfloat_from_float(value);
    }
    const GpuTokens source(std::move(tokens), std::vector<float>(64, 1.0f));
    for (const EncodeItem& item : all_variants(source, rows))
      encoded += expect_same_bytes({item}, source), ++tried;
    (void)expect_same_bytes(all_variants(source, rows), source);  // the first error of many
  }
  EXPECT_GT(encoded, 20);
  EXPECT_LT(encoded, tried - 20);
}

TEST_F(gpu_encode, random_bits_are_encoded_or_refused_alike) {
  std::mt19937 random(6);
  int encoded = 0;
  for (int round = 0; round < 40; ++round) {
    const int head_dim = 8 << random() % 6;
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
    const GpuTokens source(std::move(tokens),
                           std::vector<float>(static_cast<size_t>(head_dim), 0.0f));
    const std::vector<uint32_t> rows = row_range(0, 60);
    for (const EncodeItem& item : all_variants(source, rows))
      encoded += expect_same_bytes({item}, source);
  }
  EXPECT_GT(encoded, 100);
}

TEST_F(gpu_encode, values_that_are_not_finite_are_named_alike) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 128};
  for (const uint16_t bad : {0x7c00, 0xfc00, 0x7e01}) {
    for (const int channel : {0, 77, 127}) {
      Tokens tokens = random_tokens(shape, 128, 8);
      tokens.k[static_cast<size_t>((127 * 2 + 1) * 128 + channel)] = bad;
      tokens.v[static_cast<size_t>(9 * 2 * 128 + channel)] = bad;
      const GpuTokens source(std::move(tokens), std::vector<float>(256, 0.5f));
      for (const int count : {128, 40, 9}) {
        const std::vector<uint32_t> rows = row_range(0, count);
        for (const EncodeItem& item : all_variants(source, rows))
          EXPECT_EQ(expect_same_bytes({item}, source), count == 9 ? 1 : 0);
      }
    }
  }
}

TEST_F(gpu_encode, mapped_pinned_memory_serves_as_source_and_target) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 80};
  Tokens tokens = random_tokens(shape, 140, 9, {.k_offset = 4});
  std::vector<float> mean = mean_of(tokens);
  const GpuTokens source(std::move(tokens), std::move(mean), CudaMemory::kPinned);
  std::vector<uint32_t> rows = row_range(3, 131);
  std::swap(rows[0], rows[70]);
  EXPECT_EQ(expect_same_bytes(all_variants(source, rows), source, CudaMemory::kPinned), 18);
}

TEST_F(gpu_encode, means_and_segment_headers_have_the_bytes_of_the_cpu) {
  for (const int head_dim : {8, 64, 72, 128, 256}) {
    const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = head_dim};
    Tokens tokens = random_tokens(shape, 2001, 7, {.k_offset = 50});
    const std::vector<float> mean = mean_of(tokens);
    const GpuTokens source(std::move(tokens), mean);
    std::vector<uint32_t> rows = row_range(0, 2001);
    const CudaArray<float> gpu_mean = to_gpu(std::vector<float>(mean.size(), NAN));
    ASSERT_TRUE(
        encoder_->mean_key(shape, source.gpu_open(), rows, gpu_mean.data(), stream_.get()).ok());
    ASSERT_TRUE(encoder_->check(stream_.get()).ok());
    EXPECT_EQ(from_gpu(gpu_mean), mean);

    std::swap(rows[0], rows[2000]);
    for (const Codec codec : {Codec::kI8, Codec::kI4, Codec::kI2, Codec::kI1}) {
      for (const Codec v_codec : {codec, Codec::kF16}) {
        EncodeItem item = encode_item(
            source.tokens, rows, {.k_codec = codec, .v_codec = v_codec, .k_mean = mean.data()});
        item.k_rotated =
            bits_of(codec) <= 2 && std::has_single_bit(static_cast<unsigned>(head_dim));
        if (bits_of(codec) <= 4) item.k_spread = 1.25f;
        AlignedBytes plain(block_layout(item).headers_bytes(), 0xff);
        item.record = plain.span();
        ASSERT_TRUE(encode_segment_headers(item, plain_strip_functions()).ok());
        const CudaArray<uint8_t> headers =
            to_gpu(std::vector<uint8_t>(plain.byte_count(), uint8_t{0xff}));
        EncodeItem on_gpu = item;
        on_gpu.source = source.gpu_open();
        on_gpu.k_mean = source.gpu_mean.data();
        on_gpu.record = {reinterpret_cast<std::byte*>(headers.data()), plain.byte_count()};
        const Status status = encoder_->encode_headers(on_gpu, stream_.get());
        ASSERT_TRUE(status.ok()) << status.message();
        ASSERT_TRUE(encoder_->check(stream_.get()).ok());
        EXPECT_EQ(std::memcmp(from_gpu(headers).data(), plain.data(), plain.byte_count()), 0)
            << "head_dim " << head_dim << ", " << name(codec) << "/" << name(v_codec);
        // Blocks of values that the shared header was not made for.
        const std::vector<uint32_t> some = row_range(5, 100);
        EncodeItem block = item;
        block.rows = some;
        block.shared_headers = plain.data();
        EXPECT_EQ(expect_same_bytes({block}, source, CudaMemory::kDevice, on_gpu.record.data()), 1);
      }
    }
  }
  EXPECT_GT(encoder_->growth_count(), 0u);  // 2001 rows in any order, and rotated keys
}

TEST_F(gpu_encode, more_items_than_fit_at_once_are_all_encoded) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  const GpuTokens source(random_tokens(shape, 300, 12), std::vector<float>(64, 0.0f));
  std::mt19937 random(13);
  std::vector<std::vector<uint32_t>> rows(100);
  std::vector<EncodeItem> items;
  for (std::vector<uint32_t>& some : rows) {
    some.resize(1 + random() % 256);
    for (uint32_t& row : some) row = random() % 300;
    items.push_back(encode_item(source.tokens, some, {.k_codec = Codec::kI4}));
  }
  EXPECT_EQ(expect_same_bytes(items, source), 100);
  EXPECT_EQ(encoder_->growth_count(), 0u);
}

TEST_F(gpu_encode, saliency_is_that_of_the_cpu) {
  const auto cpu = make_engine("reference");
  for (const int head_dim : {8, 80, 128}) {
    for (const int count : {5, 64, 65, 300}) {
      const KvShape shape = {.layers = 1, .q_heads = 6, .kv_heads = 2, .head_dim = head_dim};
      const int q_len = std::min(count, 33);
      Tokens made = random_tokens(shape, count, 71, {.k_offset = 2, .v_offset = 1},
                                  head_dim == 80 ? Codec::kBf16 : Codec::kF16);
      std::vector<float> made_mean = mean_of(made);
      const GpuTokens source(std::move(made), std::move(made_mean));
      std::vector<float> q(static_cast<size_t>(q_len) * 6 * head_dim), out(q.size());
      std::vector<float> lse(static_cast<size_t>(q_len) * 6), expected(static_cast<size_t>(count));
      std::mt19937 random(5);
      std::normal_distribution<float> normal;
      for (float& x : q) x = normal(random);
      const AttendItem attend = {.shape = shape,
                                 .scale = 0.2f,
                                 .q_len = q_len,
                                 .q = q.data(),
                                 .k_mean = source.mean.data(),
                                 .open = source.tokens.open(),
                                 .causal = true,
                                 .out = out.data(),
                                 .lse = lse.data()};
      ASSERT_TRUE(cpu->attend({&attend, 1}).ok());
      for (const bool given_v_mean : {false, true}) {
        SaliencyItem item = {.shape = shape,
                             .scale = 0.2f,
                             .q_len = q_len,
                             .q = q.data(),
                             .lse = lse.data(),
                             .k_mean = source.mean.data(),
                             .open = source.tokens.open(),
                             .causal = !given_v_mean,
                             .v_mean = given_v_mean ? source.mean.data() : nullptr,
                             .score = expected.data()};
        ASSERT_TRUE(cpu->saliency(item).ok());
        const CudaArray<float> gpu_q = to_gpu(q), gpu_lse = to_gpu(lse);
        const CudaArray<float> score = to_gpu(std::vector<float>(expected.size(), NAN));
        item.q = gpu_q.data(), item.lse = gpu_lse.data(), item.k_mean = source.gpu_mean.data();
        item.open = source.gpu_open(), item.score = score.data();
        if (given_v_mean) item.v_mean = source.gpu_mean.data();
        ASSERT_TRUE(encoder_->saliency(item, stream_.get()).ok());
        ASSERT_TRUE(encoder_->check(stream_.get()).ok());
        const std::vector<float> got = from_gpu(score);
        for (size_t t = 0; t < got.size(); ++t)
          ASSERT_NEAR(got[t], expected[t], 1e-6f + 2e-5f * expected[t]) << "token " << t;
      }
    }
  }
}

TEST_F(gpu_encode, squared_distances_are_those_of_the_keys) {
  const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 80};
  Tokens tokens = random_tokens(shape, 90, 21, {.k_offset = 30});
  std::vector<float> mean = mean_of(tokens);
  const GpuTokens source(std::move(tokens), std::move(mean));
  const std::vector<uint32_t> rows = {7, 3, 89, 0, 3};
  const CudaArray<float> distances = to_gpu(std::vector<float>(10, NAN));
  ASSERT_TRUE(encoder_
                  ->squared_distances(shape, source.gpu_open(), rows, source.gpu_mean.data(),
                                      distances.data(), stream_.get())
                  .ok());
  ASSERT_TRUE(encoder_->check(stream_.get()).ok());
  const std::vector<float> got = from_gpu(distances);
  for (size_t i = 0; i < got.size(); ++i) {
    double expected = 0;
    for (size_t c = 0; c < 80; ++c) {
      const uint16_t key = source.tokens.k[(rows[i / 2] * 2 + i % 2) * 80 + c];
      const double difference = double{float_from_half(key)} - source.mean[i % 2 * 80 + c];
      expected += difference * difference;
    }
    EXPECT_NEAR(got[i], expected, 1e-5 * expected);
  }
}

TEST_F(gpu_encode, calls_that_break_the_requirements_are_refused) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  const GpuTokens source(random_tokens(shape, 40, 31), std::vector<float>(64, 0.0f));
  const CudaArray<uint8_t> bytes = to_gpu(std::vector<uint8_t>(1 << 16, uint8_t{0xff}));
  const std::vector<uint32_t> rows = row_range(0, 32);
  EncodeItem item = encode_item(source.tokens, rows, {});
  item.source = source.gpu_open();
  item.record = {reinterpret_cast<std::byte*>(bytes.data()), block_layout(item).record_bytes()};
  EXPECT_TRUE(encoder_->encode({&item, 1}, stream_.get()).ok());
  EncodeItem bad = item;
  bad.record = item.record.first(64);
  EXPECT_EQ(encoder_->encode({&bad, 1}, stream_.get()).code(), Code::kInvalidArgument);
  bad = item;
  bad.source.k += 1;
  EXPECT_EQ(encoder_->encode({&bad, 1}, stream_.get()).message(),
            "K or V that is not 16-byte aligned");
  EXPECT_TRUE(encoder_->check(stream_.get()).ok());
}

TEST_F(gpu_encode, a_small_benchmark_has_all_its_rows) {
  const auto bench = bench_gpu_encode({.blocks = 4, .kv_heads = 2, .repetitions = 1});
  ASSERT_TRUE(bench.ok()) << bench.status().message();
  EXPECT_EQ(bench.value().rows.size(), 8u);
  for (const GpuEncodeBenchRow& row : bench.value().rows) EXPECT_GT(row.gb_s, 0.0) << row.what;
}

}  // namespace
}  // namespace vkv
