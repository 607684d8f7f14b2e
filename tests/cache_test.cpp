// vkv::Cache: what it answers is attention over all tokens, and every call keeps its contract.
// SPDX-License-Identifier: Apache-2.0
#include "vkv/cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "runtime/base/codec.h"
#include "tests/cache_driver.h"

namespace vkv {
namespace {

constexpr KvShape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 64};

CacheOptions options_with(std::string_view preset_name, KvShape shape = kShape) {
  return {.shape = shape,
          .precision = precision_preset(preset_name).value(),
          .recent_tokens = 32,
          .dram_bytes_max = uint64_t{64} << 20,
          .extent_bytes_max = 128 << 10};
}

// Attention of query `position` of one layer in double precision, from the driver's own values.
std::vector<double> expected(const KvShape& shape, int layer, int position) {
  const auto k = synthetic(shape, shape.kv_heads, layer, 0, position + 1, 1);
  const auto v = synthetic(shape, shape.kv_heads, layer, 0, position + 1, 2);
  const auto q = synthetic(shape, shape.q_heads, layer, position, 1, 3);
  const size_t head_dim = static_cast<size_t>(shape.head_dim);
  std::vector<double> out(q.size(), 0.0);
  for (int head = 0; head < shape.q_heads; ++head) {
    const size_t kv_head = static_cast<size_t>(head / shape.group());
    std::vector<double> weights;
    for (int t = 0; t <= position; ++t) {
      const size_t row =
          (static_cast<size_t>(t) * static_cast<size_t>(shape.kv_heads) + kv_head) * head_dim;
      double score = 0;
      for (size_t c = 0; c < head_dim; ++c)
        score += static_cast<double>(q[static_cast<size_t>(head) * head_dim + c]) *
                 float_from_half(half_from_float(k[row + c]));
      weights.push_back(std::exp(score / std::sqrt(static_cast<double>(shape.head_dim)) - 20));
    }
    double sum = 0;
    for (double weight : weights) sum += weight;
    for (int t = 0; t <= position; ++t)
      for (size_t c = 0; c < head_dim; ++c)
        out[static_cast<size_t>(head) * head_dim + c] +=
            weights[static_cast<size_t>(t)] / sum *
            float_from_half(half_from_float(
                v[(static_cast<size_t>(t) * static_cast<size_t>(shape.kv_heads) + kv_head) *
                      head_dim +
                  c]));
  }
  return out;
}

// Largest difference of the last query of every layer, over the largest expected value.
double error_of_last(const KvShape& shape, const std::vector<float>& all, int count, int position) {
  const size_t row = static_cast<size_t>(shape.q_heads * shape.head_dim);
  double worst = 0, largest = 0;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const auto want = expected(shape, layer, position);
    const float* got = all.data() + (static_cast<size_t>(layer * count + count - 1)) * row;
    for (size_t i = 0; i < row; ++i) {
      worst = std::max(worst, std::isnan(got[i]) ? INFINITY : std::fabs(got[i] - want[i]));
      largest = std::max(largest, std::fabs(want[i]));
    }
  }
  return worst / largest;
}

TEST(cache, prefill_in_windows_and_decode_match_double_precision) {
  for (const KvShape shape : {kShape, KvShape{1, 3, 1, 80}, KvShape{1, 8, 1, 128}}) {
    auto cache = must_open(options_with("exact", shape));
    const SequenceId sequence = must_create(*cache);
    int position = 0;
    for (int count : {1, 300, 17, 1, 1, 600, 1}) {
      const auto out =
          must_feed(*cache, sequence, position, picture_prompt(0, count, 0), count > 1);
      position += count;
      EXPECT_LT(error_of_last(shape, out, count, position - 1), 1e-4)
          << "at token " << position << ", head_dim " << shape.head_dim;
    }
    EXPECT_GT(cache->stats().sealed_token_count, 0u);
  }
}

TEST(cache, fewer_bits_cost_accuracy_in_order_and_within_ceilings) {
  // Ceilings: twice what was measured when this test was written, on random values that have none
  // of the structure of real attention. Each line gets fewer bits from preset to preset.
  const auto error_of = [](std::string_view name) {
    auto cache = must_open(options_with(name));
    const SequenceId sequence = must_create(*cache);
    must_feed(*cache, sequence, 0, picture_prompt(4, 700, 40), true);
    const auto out = must_feed(*cache, sequence, 744, picture_prompt(0, 0, 1));
    return error_of_last(kShape, out, 1, 744);
  };
  using Line = std::vector<std::pair<const char*, double>>;
  for (const Line& line : {Line{{"exact", 1e-4}, {"safe", 0.2}, {"balanced", 0.5}},
                           Line{{"visual2", 0.5}, {"visual1", 1.5}, {"extreme", 2.0}}}) {
    double previous = 0;
    for (auto [name, ceiling] : line) {
      const double error = error_of(name);
      std::cout << name << ": error of the last token " << error << " of max|O|\n";
      EXPECT_LT(error, ceiling) << name;
      EXPECT_GT(error, previous) << name << " should lose more than the preset before it";
      previous = error;
    }
  }
}

TEST(cache, rotated_keys_and_v_per_token_serve_a_sequence) {
  CacheOptions options = options_with("visual1");
  const auto error_of = [&] {
    auto cache = must_open(options);
    const SequenceId sequence = must_create(*cache);
    must_feed(*cache, sequence, 0, picture_prompt(4, 700, 40), true);
    const auto out = must_feed(*cache, sequence, 744, picture_prompt(0, 0, 1));
    EXPECT_GT(cache->stats().sealed_token_count, 500u);
    return error_of_last(kShape, out, 1, 744);
  };
  const double plain = error_of();
  options.precision.low.k_rotated = true;
  options.precision.high.v_per_token = options.precision.low.v_per_token = true;
  const double varied = error_of();
  EXPECT_NE(varied, plain);
  EXPECT_LT(varied, 2 * plain);
}

TEST(cache, bits_are_counted_with_all_metadata) {
  for (auto [name, least, most] :
       {std::tuple{"exact", 16.0, 16.3}, {"balanced", 4.12, 4.9}, {"onebit", 1.0, 2.2}}) {
    auto cache = must_open(options_with(name));
    const SequenceId sequence = must_create(*cache);
    must_feed(*cache, sequence, 0, picture_prompt(4, 4096, 60), true);
    const SequenceStats stats = cache->sequence_stats(sequence).value();
    const RoleStats& visual = stats.role[static_cast<size_t>(Role::kVisual)];
    EXPECT_EQ(visual.token_count, 4096u);
    EXPECT_EQ(visual.value_count, 4096u * 2 * 2 * 2 * 64);
    EXPECT_GT(visual.bits_per_value(), least) << name;
    EXPECT_LT(visual.bits_per_value(), most) << name;
  }
}

TEST(cache, text_stays_high_and_a_tenth_of_the_tokens_at_most) {
  auto cache = must_open(options_with("visual2"));
  const SequenceId sequence = must_create(*cache);
  must_feed(*cache, sequence, 0, picture_prompt(4, 2000, 40), true);
  must_feed(*cache, sequence, 2044, picture_prompt(0, 0, 64), true);  // pushes the text out
  const SequenceStats stats = cache->sequence_stats(sequence).value();
  const RoleStats& text = stats.role[static_cast<size_t>(Role::kText)];
  const RoleStats& visual = stats.role[static_cast<size_t>(Role::kVisual)];
  EXPECT_EQ(text.high_value_count, text.sealed_value_count);
  EXPECT_GT(text.sealed_value_count, 0u);
  EXPECT_GT(visual.high_value_count, 0u);
  EXPECT_LE(visual.high_value_count, visual.value_count / 10);
}

TEST(cache, a_fork_shares_blocks_and_lives_on_when_its_parent_is_erased) {
  auto cache = must_open(options_with("balanced"));
  const SequenceId parent = must_create(*cache);
  must_feed(*cache, parent, 0, picture_prompt(0, 2000, 0), true);
  const uint64_t before = cache->stats().tier[1].bytes_used;
  const SequenceId child = cache->fork(parent).value();
  EXPECT_LT(cache->stats().tier[1].bytes_used - before, before / 4);

  const auto roles = picture_prompt(0, 0, 7);
  auto of_child = must_feed(*cache, child, 2000, roles, true, 100);
  const auto of_parent = must_feed(*cache, parent, 2000, roles, true, 100);
  EXPECT_EQ(of_child, of_parent);
  ASSERT_TRUE(cache->erase(parent).ok());
  of_child = must_feed(*cache, child, 2007, roles, false, 100);
  EXPECT_FALSE(std::isnan(of_child[0]));
  EXPECT_EQ(cache->erase(parent).code(), Code::kNotFound);
}

TEST(cache, an_erased_sequence_gives_everything_back) {
  auto cache = must_open(options_with("visual1"));
  uint64_t idle = 0;
  for (int round = 0; round < 3; ++round) {
    const SequenceId sequence = must_create(*cache);
    must_feed(*cache, sequence, 0, picture_prompt(4, 900, 64), true);
    EXPECT_GT(cache->stats().tier[1].bytes_used, idle);
    ASSERT_TRUE(cache->erase(sequence).ok());
    if (round == 0) idle = cache->stats().tier[1].bytes_used;  // scratch memory is kept
    EXPECT_EQ(cache->stats().tier[1].bytes_used, idle);
  }
}

TEST(cache, a_rejected_draft_leaves_no_trace) {
  auto cache = must_open(options_with("balanced"));
  const SequenceId plain = must_create(*cache), drafted = must_create(*cache);
  for (SequenceId sequence : {plain, drafted})
    must_feed(*cache, sequence, 0, picture_prompt(0, 500, 0), true);
  must_feed(*cache, drafted, 500, picture_prompt(0, 0, 5), false, 40);
  ASSERT_TRUE(cache->truncate(drafted, 5).ok());
  EXPECT_EQ(must_feed(*cache, drafted, 500, picture_prompt(0, 0, 3)),
            must_feed(*cache, plain, 500, picture_prompt(0, 0, 3)));
}

TEST(cache, encoded_tokens_cannot_be_dropped_and_the_error_says_how_many_can) {
  auto cache = must_open(options_with("balanced"));
  const SequenceId sequence = must_create(*cache);
  must_feed(*cache, sequence, 0, picture_prompt(0, 500, 0), true);
  const Status status = cache->truncate(sequence, 33);
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("32 can go"), std::string::npos) << status.message();
  EXPECT_TRUE(cache->truncate(sequence, 32).ok());
  EXPECT_EQ(cache->truncate(sequence, 469).code(), Code::kInvalidArgument);
}

TEST(cache, a_batch_gives_what_each_sequence_gives_alone) {
  const KvShape shape{1, 4, 2, 64};
  auto cache = must_open(options_with("visual2", shape));
  std::vector<SequenceId> alone, batched;
  const std::vector<int> lengths = {3, 290, 1100};
  for (size_t i = 0; i < lengths.size(); ++i)
    for (auto* sequences : {&alone, &batched}) {
      sequences->push_back(must_create(*cache));
      must_feed(*cache, sequences->back(), 0, picture_prompt(0, lengths[i], 0), true,
                static_cast<uint32_t>(i) * 10);
    }
  std::vector<std::vector<float>> outs(3, std::vector<float>(4 * 64, NAN)), ks, vs, qs;
  const Role role = Role::kText;
  std::vector<AppendRequest> appends;
  std::vector<AttendRequest> attends;
  for (size_t i = 0; i < 3; ++i) {
    const uint32_t seed = static_cast<uint32_t>(i) * 10;
    ks.push_back(synthetic(shape, 2, 0, lengths[i], 1, 1 + seed));
    vs.push_back(synthetic(shape, 2, 0, lengths[i], 1, 2 + seed));
    qs.push_back(synthetic(shape, 4, 0, lengths[i], 1, 3 + seed));
    appends.push_back({batched[i], 1, ks[i].data(), vs[i].data(), {&role, 1}});
    attends.push_back({batched[i], 1, qs[i].data(), outs[i].data()});
  }
  ASSERT_TRUE(cache->append(0, appends).ok());
  ASSERT_TRUE(cache->attend(0, attends).ok());
  for (size_t i = 0; i < 3; ++i)
    EXPECT_EQ(outs[i], must_feed(*cache, alone[i], lengths[i], picture_prompt(0, 0, 1), false,
                                 static_cast<uint32_t>(i) * 10));
}

TEST(cache, a_batch_with_one_wrong_value_changes_no_sequence_of_it) {
  const KvShape shape{1, 4, 2, 64};
  auto cache = must_open(options_with("visual2", shape));
  const SequenceId first = must_create(*cache), second = must_create(*cache);
  const std::vector<float> good(2 * 64, 0.5f);
  std::vector<float> bad = good;
  bad[64 + 7] = INFINITY;
  const Role role = Role::kText;
  const AppendRequest requests[] = {{first, 1, good.data(), good.data(), {&role, 1}},
                                    {second, 1, good.data(), bad.data(), {&role, 1}}};
  const Status status = cache->append(0, requests);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "sequence " + std::to_string(static_cast<uint64_t>(second)) +
                ": v of token 0, KV head 1, channel 7 is inf; it must be finite in f16");
  for (const SequenceId sequence : {first, second})
    EXPECT_EQ(cache->sequence_stats(sequence).value().role[0].token_count, 0u);
  const AppendRequest twice[] = {requests[0], requests[0]};
  EXPECT_NE(cache->append(0, twice).message().find("stands twice in one append"),
            std::string::npos);
  EXPECT_TRUE(cache->append(0, requests[0]).ok());
}

TEST(cache, fp16_and_bf16_tensors_give_the_rounded_answer) {
  for (ElementType element : {ElementType::kF16, ElementType::kBf16}) {
    const bool f16 = element == ElementType::kF16;
    const KvShape shape{1, 4, 2, 64};
    CacheOptions options = options_with("exact", shape);
    options.open_codec = f16 ? Codec::kF16 : Codec::kBf16;
    auto wide = must_open(options);
    options.element = element;
    auto narrow = must_open(options);
    const int count = 90;
    std::vector<std::vector<uint16_t>> bits(3);
    std::vector<std::vector<float>> floats(3);
    for (uint32_t i = 0; i < 3; ++i)
      for (float value : synthetic(shape, i == 2 ? 4 : 2, 0, 0, count, 1 + i)) {
        bits[i].push_back(f16 ? half_from_float(value) : bfloat_from_float(value));
        floats[i].push_back(f16 ? float_from_half(bits[i].back())
                                : float_from_bfloat(bits[i].back()));
      }
    const std::vector<Role> roles(count, Role::kText);
    const SequenceId a = must_create(*wide), b = must_create(*narrow);
    std::vector<float> want(floats[2].size());
    std::vector<uint16_t> got(bits[2].size());
    ASSERT_TRUE(wide->append(0, {a, count, floats[0].data(), floats[1].data(), roles}).ok());
    ASSERT_TRUE(narrow->append(0, {b, count, bits[0].data(), bits[1].data(), roles}).ok());
    const AttendRequest request_a{a, count, floats[2].data(), want.data()};
    const AttendRequest request_b{b, count, bits[2].data(), got.data()};
    ASSERT_TRUE(wide->attend(0, {&request_a, 1}).ok());
    ASSERT_TRUE(narrow->attend(0, {&request_b, 1}).ok());
    for (size_t i = 0; i < want.size(); ++i)
      ASSERT_EQ(got[i], f16 ? half_from_float(want[i]) : bfloat_from_float(want[i])) << i;
  }
}

TEST(cache, wrong_calls_are_refused_by_name_and_change_nothing) {
  auto cache = must_open(options_with("balanced"));
  const SequenceId sequence = must_create(*cache);
  must_feed(*cache, sequence, 0, picture_prompt(0, 50, 0));
  std::vector<float> k(2 * 64 * 2, 0.5f), v = k, q(4 * 64 * 2, 0.5f), out = q;
  const std::vector<Role> roles(2, Role::kText);
  const auto append = [&](int layer, SequenceId id, int count, std::span<const Role> r) {
    return cache->append(layer, {id, count, k.data(), v.data(), r});
  };
  const auto attend = [&](int layer, std::vector<AttendRequest> requests) {
    return cache->attend(layer, requests);
  };
  EXPECT_EQ(append(0, SequenceId{99}, 2, roles).code(), Code::kNotFound);
  EXPECT_EQ(append(2, sequence, 2, roles).code(), Code::kInvalidArgument);
  EXPECT_EQ(append(-1, sequence, 2, roles).code(), Code::kInvalidArgument);
  EXPECT_EQ(append(0, sequence, 0, {}).code(), Code::kInvalidArgument);
  EXPECT_EQ(append(0, sequence, 1, roles).code(), Code::kInvalidArgument);
  EXPECT_EQ(append(1, sequence, 2, roles).code(), Code::kInvalidArgument) << "layer 0 comes first";
  EXPECT_EQ(attend(0, {{sequence, 51, q.data(), out.data()}}).code(), Code::kInvalidArgument);
  EXPECT_EQ(attend(0, {{sequence, 0, q.data(), out.data()}}).code(), Code::kInvalidArgument);
  EXPECT_EQ(attend(0, {{sequence, 1, nullptr, out.data()}}).code(), Code::kInvalidArgument);
  const AttendRequest good{sequence, 1, q.data(), out.data()};
  EXPECT_EQ(attend(0, {good, good}).code(), Code::kInvalidArgument) << "twice in one call";

  k[64 + 5] = NAN;
  const Status status = append(0, sequence, 2, roles);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("k of token 50, KV head 1, channel 5 is nan"), std::string::npos)
      << status.message();
  k[64 + 5] = 7e4f;  // beyond fp16
  EXPECT_EQ(append(0, sequence, 2, roles).code(), Code::kInvalidArgument);
  EXPECT_EQ(cache->sequence_stats(sequence).value().token_count, 50u);

  auto other = must_open(options_with("balanced"));
  const SequenceId same = must_create(*other);
  must_feed(*other, same, 0, picture_prompt(0, 50, 0));
  EXPECT_EQ(must_feed(*cache, sequence, 50, roles), must_feed(*other, same, 50, roles));
}

TEST(cache, a_fork_in_the_middle_of_a_step_is_refused) {
  auto cache = must_open(options_with("balanced"));
  const SequenceId sequence = must_create(*cache);
  std::vector<float> k(128, 0.5f);
  const Role role = Role::kText;
  ASSERT_TRUE(cache->append(0, {sequence, 1, k.data(), k.data(), {&role, 1}}).ok());
  EXPECT_EQ(cache->fork(sequence).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(cache->truncate(sequence, 1).code(), Code::kInvalidArgument);
}

TEST(cache, shapes_and_options_out_of_range_are_refused_by_name) {
  const auto refused = [](CacheOptions options, Code code, const char* word) {
    const Status status = Cache::open(options).status();
    EXPECT_EQ(status.code(), code) << word;
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  };
  const CacheOptions good = options_with("balanced");
  CacheOptions bad = good;
  bad.shape.q_heads = 5;
  refused(bad, Code::kInvalidArgument, "q_heads is 5; it must be a positive multiple of kv_heads");
  bad = good, bad.shape.head_dim = 20;
  refused(bad, Code::kInvalidArgument, "head_dim");
  bad = good, bad.shape.layers = 0;
  refused(bad, Code::kInvalidArgument, "layers");
  bad = good, bad.recent_tokens = 3;
  refused(bad, Code::kInvalidArgument, "recent_tokens");
  bad = good, bad.precision.low = {Codec::kI2, Codec::kI4};
  refused(bad, Code::kInvalidArgument, "fewer bits");
  bad = good, bad.precision.layers = {{.layer = 2}};
  refused(bad, Code::kInvalidArgument, "layer 2; the model has layers 0 to 1");
  bad = good, bad.open_codec = Codec::kI8;
  refused(bad, Code::kInvalidArgument, "open_codec");
  bad = good, bad.nvme_bytes_max = 1 << 30;
  refused(bad, Code::kInvalidArgument, "store_path");
  bad = good, bad.dram_bytes_max = 1000;
  refused(bad, Code::kOutOfMemory, "at least");
  bad = good, bad.nvme_bytes_max = 4096, bad.store_path = store_path("tiny");
  refused(bad, Code::kOutOfMemory, "nvme");
  bad = good, bad.hbm_bytes_max = 1 << 30;
  refused(bad, Code::kInvalidArgument, "needs device cuda");

  CacheOptions on_gpu = good;
  on_gpu.device = Device::kCuda;
  refused(on_gpu, Code::kInvalidArgument, "hbm_bytes_max");
  on_gpu.hbm_bytes_max = 1 << 30;
  bad = on_gpu, bad.nvme_bytes_max = 1 << 30, bad.store_path = store_path("cuda");
  bad.prefetch_extents = 8193;
  refused(bad, Code::kInvalidArgument, "2 to 8192");
  bad = on_gpu, bad.keep_original = KeepOriginal::kDram;
  refused(bad, Code::kUnsupported, "keep_original dram");
  bad = on_gpu, bad.quality.sample_fraction = 0.5;
  refused(bad, Code::kUnsupported, "the quality meter");
  bad = on_gpu, bad.device_index = -1;
  refused(bad, Code::kInvalidArgument, "device_index is -1");
}

}  // namespace
}  // namespace vkv
