// gpu_prefill_test: attention of many queries on the GPU agrees with the double-precision formula
// to 2e-3 of max|out|, for every codec, shape and length, in one piece or several, and does not
// depend on where the bytes lie or on what dead tokens hold. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <tuple>

#include "kernels/prefill.h"
#include "tests/gpu_tokens.h"

namespace vkv {
namespace {

// Small, so that few tokens make several pieces, and few queries several calls.
constexpr PrefillLimits kLimits = {.token_count = 1024, .query_count = 128, .unit_count = 9};
constexpr double kTolerance = 2e-3;

struct Pair {
  Codec k, v;
};
constexpr Pair kPairs[] = {{Codec::kF16, Codec::kF16}, {Codec::kBf16, Codec::kBf16},
                           {Codec::kI8, Codec::kI8},   {Codec::kI4, Codec::kI4},
                           {Codec::kI4, Codec::kI2},   {Codec::kI2, Codec::kI2},
                           {Codec::kI1, Codec::kI1},   {Codec::kF16, Codec::kI8}};

std::string words(const Pair& pair) {
  return std::string(name(pair.k)) + "/" + std::string(name(pair.v));
}

// Of a shape, kept for the next test. nullptr where it cannot be.
GpuPrefill* prefill_of(const KvShape& shape) {
  static auto& known = *new std::map<std::tuple<int, int, int>, std::optional<GpuPrefill>>();
  const auto key = std::tuple(shape.q_heads, shape.kv_heads, shape.head_dim);
  if (const auto found = known.find(key); found != known.end())
    return found->second ? &*found->second : nullptr;
  auto& made = known[key];
  Result<GpuPrefill> prefill = GpuPrefill::make(shape, kLimits, nullptr);
  if (!prefill.ok()) {
    std::cout << "head_dim " << shape.head_dim << ": " << prefill.status().message() << "\n";
    return nullptr;
  }
  return &made.emplace(std::move(prefill.value()));
}

std::vector<Partial> prefill_on_gpu(std::span<const AttendItem> items,
                                    CudaMemory memory = CudaMemory::kDevice) {
  return run_on_gpu(items, memory, [&](std::span<const AttendItem> there) -> Status {
    GpuPrefill* const prefill = prefill_of(there.front().shape);
    if (prefill == nullptr) return {Code::kUnsupported, "no prefill for this shape"};
    for (const AttendItem& item : there) VKV_TRY(prefill->attend(item, nullptr));
    return {};
  });
}

double worst_seen = 0;

void expect_prefill_agreement(const AttendItem& item) {
  const Difference found = difference(prefill_on_gpu({&item, 1})[0], attend(oracle(), item));
  EXPECT_LE(found.out, kTolerance);
  EXPECT_LE(found.lse, kTolerance);
  worst_seen = std::max(worst_seen, found.out);
}

void expect_agreement_within(const PrefillLimits& limits, const AttendItem& item) {
  auto prefill = GpuPrefill::make(item.shape, limits, nullptr);
  ASSERT_TRUE(prefill.ok()) << prefill.status().message();
  const Partial got = run_on_gpu({&item, 1}, CudaMemory::kDevice, [&](auto there) {
    return prefill.value().attend(there[0], nullptr);
  })[0];
  const Difference found = difference(got, attend(oracle(), item));
  EXPECT_LE(found.out, kTolerance);
  EXPECT_LE(found.lse, kTolerance);
  worst_seen = std::max(worst_seen, found.out);
}

class gpu_prefill : public testing::Test {
 protected:
  void SetUp() override {
    if (!gpu_exists()) GTEST_SKIP() << "no GPU";
    const auto prefill = prefill_of({.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 64});
    if (prefill == nullptr) GTEST_SKIP() << "no cuDNN";
    worst_seen = 0;
  }
  void TearDown() override {
    if (worst_seen > 0) std::cout << "worst: " << worst_seen << " of max|out|\n";
  }
};

TEST_F(gpu_prefill, codes_agree_with_the_formula_for_every_length) {
  const KvShape shape = {.layers = 1, .q_heads = 7, .kv_heads = 1, .head_dim = 128};
  for (const Pair pair : kPairs) {
    const Codec open_codec = pair.k == Codec::kBf16 ? Codec::kBf16 : Codec::kF16;
    const Tokens tokens = random_tokens(shape, 2503, 201, {.v_offset = 0.5}, open_codec);
    const std::vector<float> q = random_queries(shape, 17, 202);
    for (const int count : {1, 31, 127, 128, 129, 333, 2503}) {
      SCOPED_TRACE(words(pair) + ", " + std::to_string(count) + " tokens");
      const std::vector<Record> records =
          encode_all(oracle(), tokens, count, 128, {.k_codec = pair.k, .v_codec = pair.v});
      const std::vector<BlockView> views = views_of(records);
      expect_prefill_agreement(item_over(shape, 17, q, views));
    }
  }
}

TEST_F(gpu_prefill, every_head_dim_and_group_agrees_with_the_formula) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    for (const int group : {1, 4, 7, 16}) {
      const KvShape shape = {
          .layers = 1, .q_heads = 2 * group, .kv_heads = 2, .head_dim = head_dim};
      if (prefill_of(shape) == nullptr) continue;
      const int block = tokens_per_block(head_dim), most = block + 37;
      const Tokens tokens = random_tokens(shape, most + 40, 203, {.k_offset = 1});
      const std::vector<float> q = random_queries(shape, 33, 204);
      for (const Pair pair : kPairs) {
        if (pair.k == Codec::kBf16) continue;
        for (const int count : {block - 1, block, block + 1, most}) {
          if (count != most && group != 4) continue;
          SCOPED_TRACE(words(pair) + ", head_dim " + std::to_string(head_dim) + ", " +
                       std::to_string(count) + " tokens, group " + std::to_string(group));
          const std::vector<Record> records =
              encode_all(oracle(), tokens, count, block, {.k_codec = pair.k, .v_codec = pair.v});
          const std::vector<BlockView> views = views_of(records);
          AttendItem item = item_over(shape, 33, q, views, tokens.open(most, most + 40));
          item.causal = true;
          expect_prefill_agreement(item);
        }
      }
    }
  }
}

TEST_F(gpu_prefill, queries_see_their_own_tokens_causally) {
  const struct {
    int head_dim, q_len, open_count;
  } cases[] = {{64, 17, 17},   {64, 100, 100}, {64, 128, 300},   {64, 129, 129},
               {64, 600, 601}, {64, 900, 900}, {128, 300, 1700}, {128, 1100, 1100}};
  for (const auto& [head_dim, q_len, open_count] : cases) {
    for (const Codec codec : {Codec::kF16, Codec::kBf16}) {
      const KvShape shape = {.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = head_dim};
      const int block = tokens_per_block(head_dim), sealed = 3 * block + 9;
      const Tokens tokens = random_tokens(shape, sealed + open_count, 205, {}, codec);
      const std::vector<float> q = random_queries(shape, q_len, 206);
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
        expect_prefill_agreement(item);
        item.blocks = {};
        expect_prefill_agreement(item);
      }
    }
  }
}

TEST_F(gpu_prefill, variants_and_means_agree_with_the_formula) {
  for (const int head_dim : {64, 128}) {
    const KvShape shape = {.layers = 1, .q_heads = 14, .kv_heads = 2, .head_dim = head_dim};
    const int block = tokens_per_block(head_dim), count = 2 * block + 45;
    const Tokens tokens = random_tokens(shape, count, 207, {.k_offset = 30, .v_offset = 1});
    std::vector<float> mean(static_cast<size_t>(2 * head_dim));
    ASSERT_TRUE(oracle().mean_key(shape, tokens.open(), row_range(0, count), mean.data()).ok());
    const std::vector<float> q = random_queries(shape, 40, 208);
    const Record halves = encode_rows(oracle(), tokens, row_range(3, 70), {.k_mean = mean.data()});
    const Record uncentred = encode_rows(oracle(), tokens, row_range(0, block), {});
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
          std::vector<BlockView> views = views_of(records);
          views.push_back(halves.view);
          views.push_back(uncentred.view);
          AttendItem item = item_over(shape, 40, q, views, tokens.open(0, 60));
          item.causal = true;
          item.k_mean = mean.data();
          expect_prefill_agreement(item);
        }
      }
    }
  }
}

TEST_F(gpu_prefill, shared_headers_serve_many_blocks) {
  const KvShape shape = {.layers = 1, .q_heads = 7, .kv_heads = 1, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 500, 212);
  const Segment segment = encode_segment(oracle(), tokens, 500, 128, {Codec::kI1, Codec::kI1});
  const std::vector<BlockView> views = views_of(segment.records);
  expect_prefill_agreement(item_over(shape, 60, random_queries(shape, 60, 213), views));
}

// The value of a dead token of a 16-bit record becomes NaN.
void poison(const KvShape& shape, Record& record, int token) {
  auto* const halves = reinterpret_cast<uint16_t*>(record.bytes.data());
  const BlockLayout layout = block_layout(shape, record.view);
  for (int head = 0; head < shape.kv_heads; ++head)
    for (int channel = 0; channel < shape.head_dim; ++channel) {
      halves[layout.k_of(head) / 2 + static_cast<size_t>(token * layout.channels + channel)] =
          0x7fff;
      halves[layout.v_of(head) / 2 + static_cast<size_t>(channel * layout.tokens + token)] = 0x7fff;
    }
}

TEST_F(gpu_prefill, dead_tokens_count_exactly_nothing) {
  const KvShape shape = {.layers = 1, .q_heads = 8, .kv_heads = 2, .head_dim = 64};
  const Tokens tokens = random_tokens(shape, 1500, 230);
  const std::vector<float> q = random_queries(shape, 50, 231);
  std::mt19937 random(232);
  for (const Pair pair : kPairs) {
    if (pair.k == Codec::kBf16) continue;
    SCOPED_TRACE(words(pair));
    std::vector<Record> records =
        encode_all(oracle(), tokens, 1500, 256, {.k_codec = pair.k, .v_codec = pair.v});
    std::vector<std::vector<uint32_t>> masks;
    std::vector<std::pair<size_t, int>> dead;
    for (size_t i = 0; i < records.size(); ++i) {
      std::vector<uint32_t>& mask = masks.emplace_back((records[i].view.token_count + 31) / 32);
      for (int t = 0; t < records[i].view.token_count; ++t)
        if (random() % 3 != 0 && i != 1)
          mask[t / 32] |= 1u << t % 32;
        else
          dead.emplace_back(i, t);
      records[i].view.live = masks.back().data();
    }
    std::vector<BlockView> views = views_of(records);
    AttendItem item = item_over(shape, 50, q, views, tokens.open(0, 70));
    item.causal = true;
    const Partial want = attend(oracle(), item);
    if (is_16_bit(pair.v))
      for (const auto& [i, token] : dead) poison(shape, records[i], token);
    const Difference found = difference(prefill_on_gpu({&item, 1})[0], want);
    EXPECT_LE(found.out, kTolerance);
    EXPECT_LE(found.lse, kTolerance);

    for (auto& mask : masks) std::fill(mask.begin(), mask.end(), 0u);
    const AttendItem none = item_over(shape, 50, q, views);
    const Partial empty = prefill_on_gpu({&none, 1})[0];
    for (const float x : empty.lse) EXPECT_EQ(x, -kInfinity);
    for (const float x : empty.out) EXPECT_EQ(x, 0.0f);
  }
}

TEST_F(gpu_prefill, bits_do_not_depend_on_the_memory_that_bytes_lie_in) {
  const KvShape shape = {.layers = 1, .q_heads = 14, .kv_heads = 2, .head_dim = 128};
  const Tokens tokens = random_tokens(shape, 2000, 260);
  const std::vector<float> q = random_queries(shape, 130, 261);
  for (const Pair pair : kPairs) {
    if (pair.k == Codec::kBf16) continue;
    const std::vector<Record> records =
        encode_all(oracle(), tokens, 1800, 128, {.k_codec = pair.k, .v_codec = pair.v});
    const std::vector<BlockView> views = views_of(records);
    AttendItem item = item_over(shape, 130, q, views, tokens.open(1800, 2000));
    item.causal = true;
    const Partial device = prefill_on_gpu({&item, 1})[0];
    const Partial mapped = prefill_on_gpu({&item, 1}, CudaMemory::kPinned)[0];
    EXPECT_EQ(std::memcmp(device.out.data(), mapped.out.data(), device.out.size() * 4), 0);
    EXPECT_EQ(std::memcmp(device.lse.data(), mapped.lse.data(), device.lse.size() * 4), 0);
  }
}

// bf16 reaches further than fp16.
TEST_F(gpu_prefill, values_beyond_fp16_keep_their_digits) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const Tokens tokens = random_tokens(
      shape, 700, 270, {.k_sigma = 3e5, .v_offset = 1e6, .v_sigma = 1e6}, Codec::kBf16);
  const std::vector<float> q = random_queries(shape, 50, 271, 1e-5f);
  const Record record = encode_rows(oracle(), tokens, row_range(0, 200),
                                    {.k_codec = Codec::kBf16, .v_codec = Codec::kBf16});
  AttendItem item = item_over(shape, 50, q, {&record.view, 1}, tokens.open(300, 700));
  item.causal = true;
  expect_prefill_agreement(item);
}

TEST_F(gpu_prefill, great_scores_stay_within_what_16_bits_can_do) {
  const KvShape shape = {.layers = 1, .q_heads = 4, .kv_heads = 1, .head_dim = 128};
  for (const float sigma : {0.01f, 4.0f}) {
    SCOPED_TRACE(testing::Message() << "queries of " << sigma);
    const Tokens tokens = random_tokens(shape, 640, 240, {.v_offset = 2});
    const std::vector<float> q = random_queries(shape, 64, 241, sigma);
    const std::vector<Record> records =
        encode_all(oracle(), tokens, 640, 128, {.k_codec = Codec::kI8, .v_codec = Codec::kI8});
    const std::vector<BlockView> views = views_of(records);
    expect_prefill_agreement(item_over(shape, 64, q, views));
  }
}

// With the limits that the engine has: one piece, and then two.
TEST_F(gpu_prefill, thousands_of_tokens_in_whole_pieces) {
  const KvShape shape = {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 128};
  const PrefillLimits limits = prefill_limits(shape);
  const int most = limits.token_count;
  const Tokens tokens = random_tokens(shape, most + 600, 250, {.v_offset = 0.3});
  const std::vector<float> q = random_queries(shape, 500, 251);
  const std::vector<Record> records = encode_all(*make_engine("onednn", 16), tokens, most, 128,
                                                 {.k_codec = Codec::kI4, .v_codec = Codec::kI4});
  const std::vector<BlockView> views = views_of(records);
  for (const auto& [q_len, blocks] :
       {std::pair(48, views.size()), std::pair(500, views.size() - 5)}) {
    SCOPED_TRACE(testing::Message() << q_len << " queries, " << blocks << " blocks");
    AttendItem item =
        item_over(shape, q_len, q, std::span(views).first(blocks), tokens.open(most, most + 600));
    item.causal = true;
    expect_agreement_within(limits, item);
  }
}

}  // namespace
}  // namespace vkv
