// llava_run.h: a model over the prompts of the goldens, and how far its logits are from theirs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "tests/llava_golden.h"
#include "tools/mllm/image_processor.h"
#include "tools/mllm/media.h"
#include "tools/mllm/model.h"

namespace vkv {

// The pixel values of a case: those of the file, or the pictures through the image processor.
// Nothing if this build reads no pictures.
inline std::vector<VisualInput> golden_images(const std::string& checkpoint,
                                              const GoldenCase& golden) {
  std::vector<VisualInput> images;
  if (!golden.pixels.empty()) {
    EXPECT_EQ(golden.images.size(), 1u);
    return {VisualInput{golden.pixels, {}}};
  }
  auto processor = ImageProcessor::load(checkpoint);
  VKV_CHECK(processor.ok());
  for (const std::string& file : golden.images) {
    auto image = load_image(kTinyVlm + "golden/images/" + file);
    if (!image.ok() && image.status().code() == Code::kUnsupported) return {};
    VKV_CHECK(image.ok());
    auto values = processor.value().process(image.value());
    VKV_CHECK(values.ok());
    images.push_back({std::move(values.value()), {}});
  }
  return images;
}

// Tokens before the first end token.
inline std::vector<int32_t> until_end(const Model& model, const std::vector<int32_t>& tokens) {
  const auto& eos = model.config().eos_tokens;
  return {tokens.begin(), std::find_first_of(tokens.begin(), tokens.end(), eos.begin(), eos.end())};
}

// Logits of the prompt's end and of the first `steps` greedy tokens: [1 + steps, vocabulary].
inline std::vector<float> greedy_logits(Model& model, Cache& cache, const std::string& checkpoint,
                                        const GoldenCase& golden, size_t steps) {
  const auto visual = model.encode_images(golden_images(checkpoint, golden), {});
  VKV_CHECK(visual.ok());
  std::vector<Role> roles;
  for (const int32_t token : golden.tokens)
    roles.push_back(token == model.config().image_token ? Role::kVisual : Role::kText);

  const SequenceId sequence = cache.create_sequence().value();
  ForwardRequest request = {.sequence = sequence,
                            .tokens = golden.tokens,
                            .roles = roles,
                            .visual = visual.value(),
                            .ends_window = true};
  std::vector<float> rows;
  const Role role = Role::kText;
  for (size_t step = 0;; ++step) {
    const auto row = model.forward(cache, request, {});
    EXPECT_TRUE(row.ok()) << row.status().message();
    if (!row.ok()) break;
    rows.insert(rows.end(), row.value().begin(), row.value().end());
    if (step == steps) break;
    request = {.sequence = sequence,
               .position = static_cast<int64_t>(golden.tokens.size() + step),
               .tokens = std::span(golden.greedy_tokens).subspan(step, 1),
               .roles = {&role, 1}};
  }
  EXPECT_TRUE(cache.erase(sequence).ok());
  return rows;
}

// The same by transformers.
inline std::vector<float> golden_logits(const GoldenCase& golden, size_t steps) {
  std::vector<float> rows = golden.prompt_logits;
  const auto count = static_cast<ptrdiff_t>(steps * golden.prompt_logits.size());
  rows.insert(rows.end(), golden.step_logits.begin(), golden.step_logits.begin() + count);
  return rows;
}

// The greatest difference of any row.
inline float row_difference(const std::vector<float>& actual, const std::vector<float>& expected,
                            size_t vocabulary) {
  if (actual.size() != expected.size()) return INFINITY;
  float worst = 0;
  for (size_t i = 0; i < expected.size(); i += vocabulary)
    worst = std::max(worst, golden_difference(std::span(actual).subspan(i, vocabulary),
                                              std::span(expected).subspan(i, vocabulary)));
  return worst;
}

// Cases whose pictures this build can read.
inline std::vector<GoldenCase> readable_cases(const std::string& checkpoint,
                                              const std::vector<GoldenCase>& cases) {
  std::vector<GoldenCase> readable;
  for (const GoldenCase& golden : cases)
    if (golden_images(checkpoint, golden).size() == golden.images.size())
      readable.push_back(golden);
  return readable;
}

}  // namespace vkv
