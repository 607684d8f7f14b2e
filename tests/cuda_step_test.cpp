// Decode steps on the GPU: graphs replayed give the bits of plain launches, whatever comes between
// them; products of few rows are those in double precision; values found bad late end the call.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "kernels/gpu_devices.h"
#include "tests/cache_driver.h"
#include "tests/device_values.h"
#include "tools/mllm/cuda/cuda_decoder.h"
#include "tools/mllm/cuda/few_rows.h"

namespace vkv {
namespace {

using Bf16 = __nv_bfloat16;

constexpr TextConfig kText = {.vocabulary = 1000,
                              .hidden = 256,
                              .layers = 3,
                              .q_heads = 4,
                              .kv_heads = 2,
                              .head_dim = 64,
                              .intermediate = 520,
                              .positions_max = 1 << 20,
                              .norm_epsilon = 1e-6f,
                              .rope_theta = 1e4,
                              .qkv_bias = true};

class cuda_step : public testing::Test {
 protected:
  void SetUp() override {
    const auto devices = list_gpu_devices();
    if (!devices.ok() || devices.value().empty()) GTEST_SKIP() << "no GPU";
  }
};

// A model of random weights, the same in each, on a cache.
template <class T>
struct Stage {
  std::unique_ptr<CudaContext> context;
  std::unique_ptr<CudaDecoder<T>> decoder;
  std::unique_ptr<Cache> cache;
  SequenceId sequence{};
  int64_t position = 0;

  Stage() {
    auto made = CudaContext::make(0);
    VKV_CHECK(made.ok());
    context = std::move(made.value());
    CudaWeights weights(context->stream());
    auto random = CudaDecoder<T>::random(kText, context.get(), weights);
    VKV_CHECK(random.ok());
    decoder = std::make_unique<CudaDecoder<T>>(std::move(random.value()));
    cache = must_open({.shape = {.layers = kText.layers,
                                 .q_heads = kText.q_heads,
                                 .kv_heads = kText.kv_heads,
                                 .head_dim = kText.head_dim},
                       .device = Device::kCuda,
                       .stream = context->stream(),
                       .precision = precision_preset("balanced").value(),
                       .hbm_bytes_max = uint64_t{256} << 20});
    sequence = must_create(*cache);
  }

  Result<std::vector<float>> forward(int count, int logit_count, bool ends_window) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < count; ++i)
      tokens.push_back(static_cast<int32_t>((position + i) * 37 % kText.vocabulary));
    const std::vector<Role> roles(tokens.size(), Role::kText);
    const ForwardRequest request = {.sequence = sequence,
                                    .position = position,
                                    .tokens = tokens,
                                    .roles = roles,
                                    .logit_count = logit_count,
                                    .ends_window = ends_window};
    const auto logits = decoder->forward(*cache, {&request, 1}, {});
    position += count;
    if (!logits.ok()) return logits.status();
    return std::vector<float>(logits.value().begin(), logits.value().end());
  }
};

template <class T>
void expect_graphs_change_nothing() {
  Stage<T> graphs, plain;
  plain.decoder->set_graphs(false);
  const auto both = [&](int count, int logit_count, bool ends_window) {
    const auto got = graphs.forward(count, logit_count, ends_window);
    const auto want = plain.forward(count, logit_count, ends_window);
    ASSERT_TRUE(got.ok()) << got.status().message();
    ASSERT_TRUE(want.ok()) << want.status().message();
    ASSERT_EQ(got.value(), want.value()) << "at " << graphs.position;
    ASSERT_TRUE(std::isfinite(want.value().front()));
  };
  for (const int prompt : {300, 700, 5}) {  // the second makes buffers move
    both(prompt, 1, true);
    for (int i = 0; i < 20; ++i) {
      both(1, 1, false);
      both(3, 3, false);
      both(4, 2, false);
    }
  }
  for (int i = 0; i < 300; ++i) both(1, 1, false);  // seals blocks on the way
  EXPECT_GT(graphs.decoder->graph_launch_count(), 400u * 3);
  EXPECT_EQ(plain.decoder->graph_launch_count(), 0u);
}

TEST_F(cuda_step, graphs_replayed_give_the_bits_of_plain_launches) {
  expect_graphs_change_nothing<Bf16>();
  expect_graphs_change_nothing<float>();
}

// Sequences of one stage step together, those of the other one by one.
template <class T>
void expect_batches_change_nothing(float tolerance) {
  Stage<T> together, alone;
  constexpr int kSequences = 40;  // more rows than the kernels of few rows take
  const std::vector<Role> roles(500, Role::kText);
  std::vector<SequenceId> sequences;
  std::vector<int64_t> positions;
  std::vector<int32_t> tokens;
  for (int i = 0; i < 500; ++i) tokens.push_back(i * 37 % kText.vocabulary);
  for (int i = 0; i < kSequences; ++i) {
    sequences.push_back(must_create(*together.cache));
    ASSERT_EQ(must_create(*alone.cache), sequences.back());
    const size_t length = 1 + static_cast<size_t>(i) * 117 % 499;
    positions.push_back(static_cast<int64_t>(length));
    const ForwardRequest prompt = {.sequence = sequences.back(),
                                   .tokens = std::span(tokens).first(length),
                                   .roles = std::span(roles).first(length),
                                   .ends_window = true};
    for (Stage<T>* stage : {&together, &alone})
      ASSERT_TRUE(stage->decoder->forward(*stage->cache, {&prompt, 1}, {}).ok());
  }
  for (const int count : {2, 40, 3, 17, 40, 40, 2, 40}) {
    std::vector<ForwardRequest> batch;
    std::vector<float> expected;
    for (int i = 0; i < count; ++i) {
      const auto index = static_cast<size_t>(kSequences - 1 - i);
      batch.push_back({.sequence = sequences[index],
                       .position = positions[index]++,
                       .tokens = std::span(tokens).subspan(index, 1),
                       .roles = std::span(roles).first(1)});
      const auto logits = alone.decoder->forward(*alone.cache, {&batch.back(), 1}, {});
      ASSERT_TRUE(logits.ok()) << logits.status().message();
      expected.insert(expected.end(), logits.value().begin(), logits.value().end());
    }
    const auto got = together.decoder->forward(*together.cache, batch, {});
    ASSERT_TRUE(got.ok()) << got.status().message();
    ASSERT_EQ(got.value().size(), expected.size());
    float largest = 0, worst = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      largest = std::max(largest, std::abs(expected[i]));
      worst = std::max(worst, std::abs(got.value()[i] - expected[i]));
    }
    EXPECT_LE(worst, tolerance * largest) << count;
    EXPECT_GT(largest, 0);
  }
}

// Products of other numbers of rows round otherwise; in bf16 by 2^-9 of what they hand on.
TEST_F(cuda_step, batches_give_each_sequence_its_own_logits) {
  expect_batches_change_nothing<float>(1e-4f);
  expect_batches_change_nothing<Bf16>(2e-2f);
}

TEST_F(cuda_step, a_model_that_makes_infinite_keys_fails_instead_of_answering) {
  Stage<Bf16> stage;
  ASSERT_TRUE(stage.forward(5, 1, true).ok());
  // As if weights had gone wrong.
  const std::vector<float> wrong(static_cast<size_t>(kText.kv_heads * kText.head_dim), INFINITY);
  const DeviceValues<float> k(wrong);
  const Role role = Role::kText;
  ASSERT_TRUE(stage.cache
                  ->append(0, {.sequence = stage.sequence,
                               .token_count = 1,
                               .k = k.data(),
                               .v = k.data(),
                               .roles = {&role, 1}})
                  .ok());
  stage.position += 1;
  const auto logits = stage.forward(1, 1, false);
  ASSERT_FALSE(logits.ok());
  EXPECT_NE(logits.status().message().find("layer 0: k of token 5, KV head 0, channel 0 is inf"),
            std::string::npos)
      << logits.status().message();
}

// silu(x G^T) * (x U^T) against double precision.
TEST_F(cuda_step, gates_of_few_rows_are_right) {
  for (const int inputs : {8, 256, 3584, 4104})
    for (const int rows : {1, 2, 3, 4}) {
      const int outputs = 37;
      const auto x = rounded<Bf16>(random_floats(int64_t{rows} * inputs, 1));
      const auto weight = rounded<Bf16>(random_floats(int64_t{2} * outputs * inputs, 2, 0.05f));
      std::vector<float> expected(static_cast<size_t>(rows * outputs));
      const auto dot = [&](int row, int output) {
        double sum = 0;
        for (int i = 0; i < inputs; ++i)
          sum += double{x[static_cast<size_t>(row * inputs + i)]} *
                 weight[static_cast<size_t>(output * inputs + i)];
        return static_cast<double>(float_of_bf16(bf16_bits(static_cast<float>(sum))));
      };
      for (int row = 0; row < rows; ++row)
        for (int output = 0; output < outputs; ++output) {
          const double gate = dot(row, output), up = dot(row, outputs + output);
          expected[static_cast<size_t>(row * outputs + output)] =
              static_cast<float>(gate / (1 + std::exp(-gate)) * up);
        }
      const DeviceValues<Bf16> device_x(x), device_weight(weight);
      const DeviceValues<Bf16> y(static_cast<int64_t>(rows) * outputs);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      const Status status = launch_few_rows_gate({.x = device_x.data(),
                                                  .weight = device_weight.data(),
                                                  .y = y.data(),
                                                  .rows = rows,
                                                  .outputs = outputs,
                                                  .inputs = inputs},
                                                 nullptr);
      ASSERT_TRUE(status.ok()) << status.message();
      expect_near<Bf16>(y.read(), expected, 1e-2f);
    }
}

// Rows of fp32 are not rounded on the way.
TEST_F(cuda_step, products_of_rows_of_fp32_are_right) {
  for (const int inputs : {8, 264, 3584})
    for (const int rows : {1, 2, 4}) {
      const int outputs = 21;
      const auto x = random_floats(int64_t{rows} * inputs, 1), bias = random_floats(outputs, 3);
      const auto weight = rounded<Bf16>(random_floats(int64_t{outputs} * inputs, 4, 0.05f));
      const auto before = random_floats(int64_t{rows} * outputs, 5);
      auto expected = before;
      for (int row = 0; row < rows; ++row)
        for (int output = 0; output < outputs; ++output) {
          double sum = bias[static_cast<size_t>(output)];
          for (int i = 0; i < inputs; ++i)
            sum += double{x[static_cast<size_t>(row * inputs + i)]} *
                   weight[static_cast<size_t>(output * inputs + i)];
          expected[static_cast<size_t>(row * outputs + output)] += static_cast<float>(sum);
        }
      const DeviceValues<float> device_x(x), device_bias(bias), y(before);
      const DeviceValues<Bf16> device_weight(weight);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      const Status status = launch_few_rows<float, float>({.x = device_x.data(),
                                                           .weight = device_weight.data(),
                                                           .bias = device_bias.data(),
                                                           .y = y.data(),
                                                           .rows = rows,
                                                           .outputs = outputs,
                                                           .inputs = inputs,
                                                           .add = true},
                                                          nullptr);
      ASSERT_TRUE(status.ok()) << status.message();
      expect_near<float>(y.read(), expected, 1e-5f);
    }
}

}  // namespace
}  // namespace vkv
