// clip_llama_test.cpp: a CLIP tower, a Llama decoder with its own output matrix, inner feature
// layers and the names of older checkpoints give what transformers gives.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "tests/llava_golden.h"
#include "tests/plain_cache.h"
#include "tools/mllm/model.h"

namespace vkv {
namespace {

const std::string kFolder = VKV_SOURCE_DIR "/tests/golden/clip_llama";

TEST(clip_llama, features_and_logits_equal_those_of_transformers) {
  const auto loaded = Model::load(kFolder, {});
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  Model& model = *loaded.value();
  EXPECT_EQ(model.config().tokens_per_image(), 9);
  EXPECT_EQ(model.config().vision_layers_used, 2);
  const auto golden = SafetensorsFile::open(kFolder + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status().message();

  const std::vector<float> pixels = golden_floats(golden.value(), "pixel_values");
  const auto half = pixels.begin() + static_cast<int64_t>(pixels.size() / 2);
  const std::vector<std::vector<float>> images = {{pixels.begin(), half}, {half, pixels.end()}};
  const auto features = model.encode_images(images, {});
  ASSERT_TRUE(features.ok()) << features.status().message();
  EXPECT_LE(golden_difference(features.value(), golden_floats(golden.value(), "features")), 1e-5f);

  // Every position's logits, the prompt in two parts.
  const std::vector<int32_t> tokens = golden_tokens(golden.value(), "input_ids");
  const std::vector<Role> roles(tokens.size(), Role::kText);
  const std::vector<float> expected = golden_floats(golden.value(), "logits");
  for (const size_t first : {tokens.size(), size_t{11}}) {
    PlainCache cache(model.kv_shape(), PlainCache::Values::kAsGiven);
    const SequenceId sequence = cache.create_sequence().value();
    std::vector<float> logits;
    size_t images_done = 0;
    for (size_t begin = 0; begin < tokens.size();) {
      const size_t end = begin == 0 ? first : tokens.size();
      const auto part = std::span(tokens).subspan(begin, end - begin);
      const auto visual_values =
          static_cast<size_t>(std::count(part.begin(), part.end(), model.config().image_token)) *
          64;
      const auto result =
          model.forward(cache,
                        {.sequence = sequence,
                         .position = static_cast<int64_t>(begin),
                         .tokens = part,
                         .roles = std::span(roles).subspan(begin, end - begin),
                         .visual = std::span(features.value()).subspan(images_done, visual_values),
                         .logit_count = static_cast<int>(part.size())},
                        {});
      ASSERT_TRUE(result.ok()) << result.status().message();
      logits.insert(logits.end(), result.value().begin(), result.value().end());
      images_done += visual_values;
      begin = end;
    }
    EXPECT_LE(golden_difference(logits, expected), 1e-5f) << first;
  }
}

}  // namespace
}  // namespace vkv
