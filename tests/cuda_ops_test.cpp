// cuda_ops_test.cpp: the kernels of the host model give what ops.cpp gives, in fp32 and, but for
// the rounding of their results, in bf16; and write nowhere else.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/cuda_ops.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/gpu_devices.h"
#include "tests/device_values.h"
#include "tools/mllm/cuda/image_attention.h"
#include "tools/mllm/ops.h"
#include "tools/mllm/rope.h"

namespace vkv {
namespace {

template <class T>
class cuda_ops : public testing::Test {
 protected:
  void SetUp() override {
    const auto devices = list_gpu_devices();
    if (!devices.ok() || devices.value().empty()) GTEST_SKIP() << "no GPU";
  }
};
using Elements = testing::Types<float, __nv_bfloat16>;
TYPED_TEST_SUITE(cuda_ops, Elements);

constexpr float kTolerance = 2e-6f;  // sums in another order
constexpr int kColumns[] = {1, 24, 255, 256, 257, 1000, 4096};

void expect_ok(const Status& status) { EXPECT_TRUE(status.ok()) << status.message(); }

TYPED_TEST(cuda_ops, rms_norm) {
  for (const int columns : kColumns)
    for (const int64_t rows : {1, 3, 70}) {
      const auto x = random_floats(rows * columns, 1, 3.0f), weight = random_floats(columns, 2);
      std::vector<float> expected(x.size());
      rms_norm(x.data(), rows, weight, 1e-6f, expected.data());
      const DeviceValues<float> device_x(x), device_weight(weight);
      const DeviceValues<TypeParam> y(rows * columns);
      expect_ok(launch_rms_norm<TypeParam>({.x = device_x.data(),
                                            .weight = device_weight.data(),
                                            .y = y.data(),
                                            .rows = rows,
                                            .columns = columns,
                                            .epsilon = 1e-6f},
                                           nullptr));
      expect_near<TypeParam>(y.read(), expected, kTolerance);
    }
}

TYPED_TEST(cuda_ops, layer_norm) {
  for (const int columns : kColumns)
    for (const int64_t rows : {1, 3, 70}) {
      auto x = random_floats(rows * columns, 3);
      for (float& value : x) value += 5.0f;  // where E[x^2] - mean^2 would cancel
      const auto weight = random_floats(columns, 4), bias = random_floats(columns, 5);
      std::vector<float> expected(x.size());
      layer_norm(x.data(), rows, weight, bias, 1e-5f, expected.data());
      const DeviceValues<float> device_x(x), device_weight(weight), device_bias(bias);
      const DeviceValues<TypeParam> y(rows * columns);
      expect_ok(launch_layer_norm<TypeParam>({.x = device_x.data(),
                                              .weight = device_weight.data(),
                                              .bias = device_bias.data(),
                                              .y = y.data(),
                                              .rows = rows,
                                              .columns = columns,
                                              .epsilon = 1e-5f},
                                             nullptr));
      expect_near<TypeParam>(y.read(), expected, 5 * kTolerance);
      // In place, as before the first layer of CLIP.
      expect_ok(launch_layer_norm<float>({.x = device_x.data(),
                                          .weight = device_weight.data(),
                                          .bias = device_bias.data(),
                                          .y = device_x.data(),
                                          .rows = rows,
                                          .columns = columns,
                                          .epsilon = 1e-5f},
                                         nullptr));
      expect_near<float>(device_x.read(), expected, 5 * kTolerance);
    }
}

struct RotateCase {
  int head_dim, q_heads, kv_heads;
  int64_t rows, position;
};

TYPED_TEST(cuda_ops, rotate_takes_q_k_and_v_apart_and_turns_q_and_k) {
  for (const RotateCase& of :
       {RotateCase{64, 4, 2, 1, 0}, RotateCase{64, 14, 2, 33, 1000}, RotateCase{80, 3, 3, 5, 77},
        RotateCase{96, 2, 1, 7, 4000}, RotateCase{128, 28, 4, 17, 32000}, RotateCase{8, 1, 1, 2, 3},
        RotateCase{256, 2, 2, 3, 131000}}) {
    SCOPED_TRACE(of.head_dim);
    const int64_t q_width = of.q_heads * of.head_dim, kv_width = of.kv_heads * of.head_dim;
    auto q = random_floats(of.rows * q_width, 6), k = random_floats(of.rows * kv_width, 7);
    const auto v = random_floats(of.rows * kv_width, 8);
    std::vector<float> qkv, positions_bits[3], axes_bytes;
    std::vector<RopePosition> positions;
    for (int64_t row = 0; row < of.rows; ++row) {
      qkv.insert(qkv.end(), q.begin() + row * q_width, q.begin() + (row + 1) * q_width);
      qkv.insert(qkv.end(), k.begin() + row * kv_width, k.begin() + (row + 1) * kv_width);
      qkv.insert(qkv.end(), v.begin() + row * kv_width, v.begin() + (row + 1) * kv_width);
      const auto at = static_cast<int32_t>(of.position + row);
      positions.push_back({at, at / 2, at / 3});
      const RopePosition& last = positions.back();
      for (const auto& [axis, value] :
           {std::pair(0, last.time), std::pair(1, last.row), std::pair(2, last.column)})
        positions_bits[axis].push_back(std::bit_cast<float>(value));
    }
    for (const int axis : {1, 2})
      positions_bits[0].insert(positions_bits[0].end(), positions_bits[axis].begin(),
                               positions_bits[axis].end());
    const int half = of.head_dim / 2;
    const RopeChannels channels =
        rope_channels(of.head_dim, 1e6, {half / 4, half / 4, half - half / 4 * 2});
    const RopeTable rope(positions, channels);
    // Four axes a float: DeviceValues holds floats.
    std::vector<uint8_t> axes = channels.axes;
    axes.resize((axes.size() + 3) / 4 * 4);
    axes_bytes.resize(axes.size() / 4);
    std::memcpy(axes_bytes.data(), axes.data(), axes.size());
    rope.apply(q.data(), of.q_heads);
    rope.apply(k.data(), of.kv_heads);

    const DeviceValues<float> device_qkv(qkv), device_positions(positions_bits[0]);
    const DeviceValues<float> frequency(channels.frequency), device_axes(axes_bytes);
    const DeviceValues<TypeParam> q_out(of.rows * q_width);
    const DeviceValues<TypeParam> k_out(of.rows * kv_width), v_out(of.rows * kv_width);
    expect_ok(launch_rotate<TypeParam>(
        {.qkv = device_qkv.data(),
         .positions = reinterpret_cast<const int32_t*>(device_positions.data()),
         .position_stride = of.rows,
         .frequency = frequency.data(),
         .axes = reinterpret_cast<const uint8_t*>(device_axes.data()),
         .q = q_out.data(),
         .k = k_out.data(),
         .v = v_out.data(),
         .rows = of.rows,
         .q_heads = of.q_heads,
         .kv_heads = of.kv_heads,
         .head_dim = of.head_dim},
        nullptr));
    expect_near<TypeParam>(q_out.read(), q, kTolerance);
    expect_near<TypeParam>(k_out.read(), k, kTolerance);
    expect_near<TypeParam>(v_out.read(), v, 0.0f);
  }
}

TYPED_TEST(cuda_ops, turn_turns_q_and_k_of_pictures_and_leaves_v) {
  struct Case {
    int head_dim, heads, period, steps;
  };
  for (const Case& of : {Case{16, 2, 12, 1}, Case{80, 16, 8, 3}, Case{128, 1, 5, 2}}) {
    SCOPED_TRACE(of.head_dim);
    const int64_t rows = int64_t{of.period} * of.steps, width = of.heads * of.head_dim;
    auto expected = rounded<TypeParam>(random_floats(rows * 3 * width, 12));
    const DeviceValues<TypeParam> qkv(expected);
    std::vector<RopePosition> positions;
    for (int row = 0; row < of.period; ++row) positions.push_back({0, row / 2, row % 3});
    const RopeTable rope(positions, image_rope_channels(of.head_dim, 1e4));
    for (int step = 0; step < of.steps; ++step)
      rope.apply(expected.data() + step * of.period * 3 * width, 2 * of.heads, 3 * width);

    const DeviceValues<float> cosine(rope.cosine()), sine(rope.sine());
    expect_ok(launch_turn<TypeParam>({.qkv = qkv.data(),
                                      .cosine = cosine.data(),
                                      .sine = sine.data(),
                                      .rows = rows,
                                      .period = of.period,
                                      .heads = of.heads,
                                      .head_dim = of.head_dim},
                                     nullptr));
    expect_near<TypeParam>(qkv.read(), expected, kTolerance);
  }
}

float silu(float x) { return x / (1.0f + std::exp(-x)); }

TYPED_TEST(cuda_ops, gate) {
  for (const int columns : {1, 72, 257, 4864})
    for (const int64_t rows : {1, 5, 130}) {
      const auto gate_up = rounded<TypeParam>(random_floats(rows * 2 * columns, 9, 4.0f));
      std::vector<float> expected, up;
      for (int64_t row = 0; row < rows; ++row) {
        const auto begin = gate_up.begin() + row * 2 * columns;
        std::transform(begin, begin + columns, std::back_inserter(expected), silu);
        up.insert(up.end(), begin + columns, begin + 2 * columns);
      }
      multiply(expected.data(), up.data(), rows * columns);
      const DeviceValues<TypeParam> device_gate_up(gate_up), y(rows * columns);
      expect_ok(launch_gate<TypeParam>(
          {.gate_up = device_gate_up.data(), .y = y.data(), .rows = rows, .columns = columns},
          nullptr));
      expect_near<TypeParam>(y.read(), expected, kTolerance);
    }
}

double activated(double x, Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kQuickGelu:
      return x / (1 + std::exp(-1.702 * x));
    case Activation::kGeluErf:
      return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kNone:
      break;
  }
  return x;
}

TYPED_TEST(cuda_ops, activations) {
  for (const Activation activation : {Activation::kNone, Activation::kSilu, Activation::kQuickGelu,
                                      Activation::kGeluErf, Activation::kGeluTanh})
    for (const int64_t count : {1, 255, 3000001}) {
      auto x = rounded<TypeParam>(random_floats(count, 10, 5.0f));
      const DeviceValues<TypeParam> device_x(x);
      expect_ok(launch_activate<TypeParam>(
          {.x = device_x.data(), .count = count, .activation = activation}, nullptr));
      for (float& value : x) value = static_cast<float>(activated(value, activation));
      expect_near<TypeParam>(device_x.read(), x, kTolerance);
    }
}

TYPED_TEST(cuda_ops, embed_leaves_the_rows_of_image_tokens_alone) {
  constexpr int kVocabulary = 50, kWidth = 72;
  const auto table = rounded<TypeParam>(random_floats(kVocabulary * kWidth, 11));
  const std::vector<int32_t> tokens = {49, 3, 3, 0, 17, 3, 8};
  std::vector<float> expected, token_bits;
  for (const int32_t token : tokens) {
    token_bits.push_back(std::bit_cast<float>(token));
    for (int i = 0; i < kWidth; ++i)
      expected.push_back(token == 3 ? -7.0f : table[static_cast<size_t>(token * kWidth + i)]);
  }
  const DeviceValues<TypeParam> device_table(table);
  const DeviceValues<float> device_tokens(token_bits), x(std::vector<float>(expected.size(), -7));
  expect_ok(
      launch_embed<TypeParam>({.table = device_table.data(),
                               .tokens = reinterpret_cast<const int32_t*>(device_tokens.data()),
                               .x = x.data(),
                               .rows = static_cast<int64_t>(tokens.size()),
                               .columns = kWidth,
                               .image_token = 3},
                              nullptr));
  EXPECT_EQ(x.read(), expected);
}

TYPED_TEST(cuda_ops, patches_positions_and_kept_rows) {
  constexpr int kImages = 3, kEdge = 44, kPatch = 14, kGrid = 3, kWidth = 50;
  const auto images = random_floats(kImages * 3 * kEdge * kEdge, 12);
  std::vector<float> expected;
  for (int patch = 0; patch < kImages * kGrid * kGrid; ++patch)
    for (int i = 0; i < 3 * kPatch * kPatch; ++i) {
      const int image = patch / 9, row = patch / 3 % 3, column = patch % 3;
      const int channel = i / 196, y = i / 14 % 14, x = i % 14;
      expected.push_back(images[static_cast<size_t>(
          ((image * 3 + channel) * kEdge + row * kPatch + y) * kEdge + column * kPatch + x)]);
    }
  const DeviceValues<float> device_images(images);
  const DeviceValues<TypeParam> patches(static_cast<int64_t>(expected.size()));
  expect_ok(launch_patches<TypeParam>({.images = device_images.data(),
                                       .patches = patches.data(),
                                       .image_count = kImages,
                                       .image_edge = kEdge,
                                       .patch_edge = kPatch},
                                      nullptr));
  EXPECT_EQ(patches.read(), rounded<TypeParam>(expected));

  for (const int classes : {0, 1}) {
    const int positions = 9 + classes;
    const auto embedded = random_floats(kImages * 9 * kWidth, 13);
    const auto class_embedding = random_floats(classes * kWidth, 14);
    const auto embedding = random_floats(positions * kWidth, 15);
    std::vector<float> rows;
    for (int image = 0; image < kImages; ++image) {
      rows.insert(rows.end(), class_embedding.begin(), class_embedding.end());
      const auto begin = embedded.begin() + image * 9 * kWidth;
      rows.insert(rows.end(), begin, begin + 9 * kWidth);
      for (size_t i = 0; i < embedding.size(); ++i)
        rows[rows.size() - embedding.size() + i] += embedding[i];
    }
    const DeviceValues<float> device_embedded(embedded), device_class(class_embedding);
    const DeviceValues<float> device_embedding(embedding), x(kImages * positions * kWidth);
    expect_ok(launch_positions({.patches = device_embedded.data(),
                                .class_embedding = classes == 0 ? nullptr : device_class.data(),
                                .embedding = device_embedding.data(),
                                .x = x.data(),
                                .image_count = kImages,
                                .positions = positions,
                                .columns = kWidth},
                               nullptr));
    EXPECT_EQ(x.read(), rows);

    for (const int kept : {positions, positions - 1}) {
      std::vector<float> last;
      for (int image = 0; image < kImages; ++image) {
        const auto end = rows.begin() + (image + 1) * positions * kWidth;
        last.insert(last.end(), end - kept * kWidth, end);
      }
      const DeviceValues<TypeParam> y(kImages * kept * kWidth);
      expect_ok(launch_keep<TypeParam>({.x = x.data(),
                                        .y = y.data(),
                                        .image_count = kImages,
                                        .positions = positions,
                                        .kept = kept,
                                        .columns = kWidth},
                                       nullptr));
      EXPECT_EQ(y.read(), rounded<TypeParam>(last));
    }
  }
}

TYPED_TEST(cuda_ops, no_rows_are_no_work) {
  expect_ok(launch_rms_norm<TypeParam>({.columns = 5}, nullptr));
  expect_ok(launch_gate<TypeParam>({.columns = 5}, nullptr));
  expect_ok(launch_activate<TypeParam>({.activation = Activation::kSilu}, nullptr));
  expect_ok(
      launch_image_attention<TypeParam>({.positions = 1, .heads = 1, .head_dim = 8}, nullptr));
}

struct AttentionCase {
  int head_dim, heads, positions;
  int64_t images;
};

// In double precision.
std::vector<float> attention(const std::vector<float>& qkv, const AttentionCase& of) {
  const int64_t dim = of.head_dim, width = of.heads * dim, positions = of.positions;
  std::vector<float> out(static_cast<size_t>(of.images * positions * width));
  std::vector<double> weight(static_cast<size_t>(positions));
  for (int64_t image = 0; image < of.images; ++image)
    for (int64_t head = 0; head < of.heads; ++head)
      for (int64_t query = 0; query < positions; ++query) {
        const float* const rows = qkv.data() + image * positions * 3 * width + head * dim;
        const float* const q = rows + query * 3 * width;
        double greatest = -INFINITY, sum = 0;
        for (int64_t key = 0; key < positions; ++key) {
          double score = 0;
          for (int64_t i = 0; i < dim; ++i)
            score += double{q[i]} * rows[key * 3 * width + width + i];
          weight[static_cast<size_t>(key)] = score /= std::sqrt(static_cast<double>(dim));
          greatest = std::max(greatest, score);
        }
        for (double& value : weight) sum += value = std::exp(value - greatest);
        for (int64_t i = 0; i < dim; ++i) {
          double value = 0;
          for (int64_t key = 0; key < positions; ++key)
            value += weight[static_cast<size_t>(key)] * rows[key * 3 * width + 2 * width + i];
          out[static_cast<size_t>((image * positions + query) * width + head * dim + i)] =
              static_cast<float>(value / sum);
        }
      }
  return out;
}

TYPED_TEST(cuda_ops, image_attention) {
  // In bf16 the weights, too, are rounded before they multiply values.
  constexpr float kAttentionTolerance = std::is_same_v<TypeParam, float> ? 5 * kTolerance : 0x1p-8f;
  for (const AttentionCase& of :
       {AttentionCase{64, 2, 1, 1}, AttentionCase{64, 3, 256, 2}, AttentionCase{64, 1, 577, 1},
        AttentionCase{16, 3, 10, 2}, AttentionCase{24, 2, 31, 1}, AttentionCase{72, 2, 32, 1},
        AttentionCase{80, 2, 33, 2}, AttentionCase{96, 1, 65, 1}, AttentionCase{128, 2, 100, 1},
        AttentionCase{64, 2, 64, 1}, AttentionCase{72, 2, 729, 1}, AttentionCase{128, 1, 193, 1},
        AttentionCase{7, 2, 19, 1}}) {
    SCOPED_TRACE(testing::Message() << of.head_dim << " channels, " << of.positions);
    const int64_t width = of.heads * of.head_dim, rows = of.images * of.positions;
    const auto qkv = rounded<TypeParam>(random_floats(rows * 3 * width, 16, 1.5f));
    const DeviceValues<TypeParam> device_qkv(qkv), out(rows * width);
    expect_ok(launch_image_attention<TypeParam>({.qkv = device_qkv.data(),
                                                 .out = out.data(),
                                                 .image_count = of.images,
                                                 .positions = of.positions,
                                                 .heads = of.heads,
                                                 .head_dim = of.head_dim},
                                                nullptr));
    expect_near<TypeParam>(out.read(), attention(qkv, of), kAttentionTolerance);
  }
}

}  // namespace
}  // namespace vkv
