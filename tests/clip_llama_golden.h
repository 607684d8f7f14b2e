// clip_llama_golden.h: the CLIP-Llama checkpoint, what transformers computed, and a model over it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "tests/llava_golden.h"
#include "tools/mllm/model.h"

namespace vkv {

inline const std::string kClipLlama = VKV_SOURCE_DIR "/tests/golden/clip_llama";

struct ClipLlamaGolden {
  std::vector<VisualInput> images;  // two
  std::vector<float> features;      // of both
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // [tokens, vocabulary]
};

inline ClipLlamaGolden load_clip_llama_golden() {
  const auto file = SafetensorsFile::open(kClipLlama + "/golden.safetensors");
  VKV_CHECK(file.ok());
  const std::vector<float> pixels = golden_floats(file.value(), "pixel_values");
  const auto half = pixels.begin() + static_cast<int64_t>(pixels.size() / 2);
  return {
      .images = {VisualInput{{pixels.begin(), half}, {}}, VisualInput{{half, pixels.end()}, {}}},
      .features = golden_floats(file.value(), "features"),
      .tokens = golden_tokens(file.value(), "input_ids"),
      .logits = golden_floats(file.value(), "logits")};
}

// Every position's logits, the prompt in two parts: the first `first` tokens and the rest.
inline std::vector<float> logits_in_parts(Model& model, Cache& cache,
                                          const std::vector<int32_t>& tokens,
                                          std::span<const float> features, size_t first) {
  const std::vector<Role> roles(tokens.size(), Role::kText);
  const auto hidden = static_cast<size_t>(model.config().text.hidden);
  const SequenceId sequence = cache.create_sequence().value();
  std::vector<float> logits;
  for (size_t begin = 0; begin < tokens.size();) {
    const size_t end = begin == 0 ? first : tokens.size();
    const auto part = std::span(tokens).subspan(begin, end - begin);
    const auto visual_values =
        static_cast<size_t>(std::count(part.begin(), part.end(), model.config().image_token)) *
        hidden;
    const auto result = model.forward(cache,
                                      {.sequence = sequence,
                                       .position = static_cast<int64_t>(begin),
                                       .tokens = part,
                                       .roles = std::span(roles).subspan(begin, end - begin),
                                       .visual = features.first(visual_values),
                                       .logit_count = static_cast<int>(part.size())},
                                      {});
    EXPECT_TRUE(result.ok()) << result.status().message();
    if (!result.ok()) break;
    logits.insert(logits.end(), result.value().begin(), result.value().end());
    features = features.subspan(visual_values);
    begin = end;
  }
  EXPECT_TRUE(cache.erase(sequence).ok());
  return logits;
}

}  // namespace vkv
