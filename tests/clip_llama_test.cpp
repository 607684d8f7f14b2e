// clip_llama_test.cpp: a CLIP tower, a Llama decoder with its own output matrix, inner feature
// layers and the names of older checkpoints give what transformers gives.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "tests/clip_llama_golden.h"
#include "tests/plain_cache.h"
#include "tools/mllm/model.h"

namespace vkv {
namespace {

TEST(clip_llama, features_and_logits_equal_those_of_transformers) {
  const auto loaded = Model::load(kClipLlama, {});
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  Model& model = *loaded.value();
  EXPECT_EQ(model.config().tokens_per_image(), 9);
  EXPECT_EQ(model.config().vision_layers_used, 2);

  const ClipLlamaGolden golden = load_clip_llama_golden();
  const auto features = model.encode_images(golden.images, {});
  ASSERT_TRUE(features.ok()) << features.status().message();
  EXPECT_LE(golden_difference(features.value(), golden.features), 1e-5f);

  PlainCache cache(model.kv_shape(), PlainCache::Values::kAsGiven);
  for (const size_t first : {golden.tokens.size(), size_t{11}}) {
    const std::vector<float> logits =
        logits_in_parts(model, cache, golden.tokens, features.value(), first);
    EXPECT_LE(golden_difference(logits, golden.logits), 1e-5f) << first;
  }
}

}  // namespace
}  // namespace vkv
