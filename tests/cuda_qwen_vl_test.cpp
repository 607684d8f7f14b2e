// cuda_qwen_vl_test.cpp: on a GPU Qwen2-VL and Qwen2.5-VL give what transformers gives, in fp32
// and, but for the rounding of weights and products, in bf16. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

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

INSTANTIATE_TEST_SUITE_P(families, cuda_qwen_vl, testing::Values("qwen2_5_vl", "qwen2_vl"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace vkv
