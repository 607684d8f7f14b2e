// cuda_qwen_vl_test.cpp: on a GPU Qwen-VL and LLaVA-OneVision give what transformers gives, in fp32
// and, but for the rounding of weights and products, in bf16; videos in pieces give the same bits.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "kernels/gpu_devices.h"
#include "tests/plain_cuda_cache.h"
#include "tests/qwen_vl_golden.h"
#include "tools/mllm/model.h"

namespace vkv {
namespace {

constexpr float kTolerance = 1e-4f;     // fp32: sums in another order
constexpr float kBf16Tolerance = 0.1f;  // random weights amplify rounding

class cuda_qwen_vl : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto devices = list_gpu_devices();
    if (!devices.ok() || devices.value().empty()) GTEST_SKIP() << "no GPU";
  }
};

TEST_P(cuda_qwen_vl, visual_tokens_and_logits_are_near_those_of_transformers) {
  const std::string folder = kQwenVl + GetParam();
  const auto golden = SafetensorsFile::open(folder + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status().message();
  for (const bool in_fp32 : {true, false}) {
    const auto model = Model::load(folder, {.device = Device::kCuda, .cuda_in_fp32 = in_fp32});
    ASSERT_TRUE(model.ok()) << model.status().message();
    const float tolerance = in_fp32 ? kTolerance : kBf16Tolerance;
    PlainCudaCache cache(model.value()->kv_shape(), model.value()->element(),
                         model.value()->cuda_stream());
    for (const QwenCase& of : load_qwen_cases()) {
      const std::vector<VisualInput> media = qwen_inputs(folder, of);
      const auto features = model.value()->encode_images(media, {});
      ASSERT_TRUE(features.ok()) << features.status().message();
      const float feature_gap = golden_difference(
          features.value(), golden_floats(golden.value(), (of.name + ".features").c_str()));
      EXPECT_LE(feature_gap, tolerance) << of.name;
      const auto tokens = golden_tokens(golden.value(), (of.name + ".input_ids").c_str());
      const auto expected = golden_floats(golden.value(), (of.name + ".logits").c_str());
      for (const size_t first : {tokens.size(), tokens.size() - kQwenAnswerTokens}) {
        const float gap =
            golden_difference(qwen_logits(*model.value(), cache, media, tokens, first), expected);
        EXPECT_LE(gap, tolerance) << of.name << " " << first;
        std::printf("%s %s: features %.2e, logits %.2e from transformers\n",
                    in_fp32 ? "fp32" : "bf16", of.name.c_str(), static_cast<double>(feature_gap),
                    static_cast<double>(gap));
      }
    }
  }
}

// 8192 rows are a pass: three of them, and a part.
TEST_P(cuda_qwen_vl, a_video_in_pieces_has_the_bits_of_the_whole) {
  const std::string folder = kQwenVl + GetParam();
  const auto model = Model::load(folder, {.device = Device::kCuda});
  ASSERT_TRUE(model.ok()) << model.status().message();
  VisualInput whole{.values = {},
                    .shape = {.is_video = true, .steps = 110, .height = 16, .width = 16}};
  const auto step_values = static_cast<size_t>(16 * 16 * 3 * 2 * 4 * 4);
  for (size_t i = 0; i < 110 * step_values; ++i)
    whole.values.push_back(static_cast<float>(i * 2654435761u % 1000) * 2e-3f - 1);
  const int64_t pass_steps = model.value()->steps_per_pass(whole.shape);
  ASSERT_EQ(pass_steps, 32);
  const auto expected = model.value()->encode_images({&whole, 1}, {});
  ASSERT_TRUE(expected.ok()) << expected.status().message();
  std::vector<float> rows;
  for (int64_t first = 0; first < whole.shape.steps; first += pass_steps) {
    VisualInput piece{.values = {}, .shape = whole.shape};
    piece.shape.steps = static_cast<int>(std::min(pass_steps, whole.shape.steps - first));
    const auto values = std::span<const float>(whole.values)
                            .subspan(static_cast<size_t>(first) * step_values,
                                     static_cast<size_t>(piece.shape.steps) * step_values);
    piece.values.assign(values.begin(), values.end());
    const auto encoded = model.value()->encode_images({&piece, 1}, {});
    ASSERT_TRUE(encoded.ok()) << encoded.status().message();
    rows.insert(rows.end(), encoded.value().begin(), encoded.value().end());
  }
  EXPECT_EQ(rows, expected.value());
}

INSTANTIATE_TEST_SUITE_P(families, cuda_qwen_vl, testing::Values("qwen2_5_vl", "qwen2_vl"),
                         [](const auto& param) { return param.param; });

TEST(cuda_llava_onevision, visual_tokens_are_near_those_of_transformers) {
  const auto devices = list_gpu_devices();
  if (!devices.ok() || devices.value().empty()) GTEST_SKIP() << "no GPU";
  const std::string folder = VKV_SOURCE_DIR "/tests/golden/llava_onevision";
  const auto golden = SafetensorsFile::open(folder + "/golden.safetensors");
  const auto processor = MediaProcessor::load(folder);
  ASSERT_TRUE(golden.ok() && processor.ok());
  const VisualInput large =
      processor.value().picture(load_image(folder + "/large.npy").value()).value();
  const auto clip = load_video(kQwenVl + "clip.npy", {}).value();
  const VisualInput video = processor.value().video(clip).value()[0];
  for (const bool in_fp32 : {true, false}) {
    const auto model = Model::load(folder, {.device = Device::kCuda, .cuda_in_fp32 = in_fp32});
    ASSERT_TRUE(model.ok()) << model.status().message();
    for (const auto& [name, input] :
         {std::pair("large.features", &large), {"video.features", &video}}) {
      const auto features = model.value()->encode_images({input, 1}, {});
      ASSERT_TRUE(features.ok()) << features.status().message();
      const float gap = golden_difference(features.value(), golden_floats(golden.value(), name));
      EXPECT_LE(gap, in_fp32 ? kTolerance : kBf16Tolerance) << name;
      std::printf("%s %s: %.2e from transformers\n", in_fp32 ? "fp32" : "bf16", name,
                  static_cast<double>(gap));
    }
  }
}

}  // namespace
}  // namespace vkv
