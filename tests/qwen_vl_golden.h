// qwen_vl_golden.h: the Qwen-VL checkpoints, what transformers computed, and a model over it.
// SPDX-License-Identifier: Apache-2.0
//
// tests/golden/qwen_vl/make_golden.py describes the files.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/llava_golden.h"
#include "tools/mllm/media_processor.h"
#include "tools/mllm/model.h"
#include "tools/mllm/visual_layout.h"

namespace vkv {

inline const std::string kQwenVl = VKV_SOURCE_DIR "/tests/golden/qwen_vl/";
inline constexpr size_t kQwenAnswerTokens = 4;  // behind the prompt
inline constexpr size_t kQwenLogitRows = 6;     // of the last positions

struct QwenCase {
  std::string name, question;
  std::vector<std::string> media;
};

inline std::vector<QwenCase> load_qwen_cases() {
  std::vector<QwenCase> cases;
  const auto json = nlohmann::json::parse(std::ifstream(kQwenVl + "cases.json"));
  for (const auto& entry : json["cases"])
    cases.push_back({entry["name"], entry["question"], entry["media"]});
  return cases;
}

// The media of a case through the checkpoint's processor. The video has a frame a second.
inline std::vector<VisualInput> qwen_inputs(const std::string& folder, const QwenCase& of) {
  const auto processor = MediaProcessor::load(folder);
  EXPECT_TRUE(processor.ok()) << processor.status().message();
  std::vector<VisualInput> inputs;
  for (const std::string& name : of.media) {
    const std::string path = kQwenVl + name + ".npy";
    if (of.name != "video") {
      inputs.push_back(processor.value().picture(load_image(path).value()).value());
      continue;
    }
    Video video = load_video(path, {}).value();
    video.frames_per_second = 1.0;
    inputs = processor.value().video(video).value();
  }
  return inputs;
}

inline std::vector<VisualShape> shapes_of(const std::vector<VisualInput>& inputs) {
  std::vector<VisualShape> shapes;
  for (const VisualInput& input : inputs) shapes.push_back(input.shape);
  return shapes;
}

// Logits of the last kQwenLogitRows positions. The first `first` tokens, with the media, are one
// window; each behind them is a step.
inline std::vector<float> qwen_logits(Model& model, Cache& cache,
                                      const std::vector<VisualInput>& media,
                                      const std::vector<int32_t>& tokens, size_t first) {
  const std::vector<float> visual = model.encode_images(media, {}).value();
  const std::vector<Role> roles(tokens.size(), Role::kText);
  const auto rope = prompt_positions(model.config(), tokens, shapes_of(media)).value();
  const int64_t delta = rope_end(rope) - static_cast<int64_t>(tokens.size());
  const SequenceId sequence = cache.create_sequence().value();
  std::vector<float> logits;
  for (size_t begin = 0; begin < tokens.size();) {
    const bool has_media = begin == 0;
    const size_t count = has_media ? first : 1;
    ForwardRequest request = {.sequence = sequence,
                              .position = static_cast<int64_t>(begin),
                              .tokens = std::span(tokens).subspan(begin, count),
                              .roles = std::span(roles).subspan(begin, count),
                              .rope_delta = delta,
                              .logit_count = static_cast<int>(std::min(count, kQwenLogitRows))};
    if (has_media) request.rope = std::span(rope).first(count);
    if (has_media) request.visual = visual;
    const auto result = model.forward(cache, request, {});
    EXPECT_TRUE(result.ok()) << result.status().message();
    if (!result.ok()) break;
    logits.insert(logits.end(), result.value().begin(), result.value().end());
    begin += count;
  }
  EXPECT_TRUE(cache.erase(sequence).ok());
  const size_t kept = kQwenLogitRows * static_cast<size_t>(model.config().text.vocabulary);
  logits.erase(logits.begin(),
               logits.end() - static_cast<ptrdiff_t>(std::min(kept, logits.size())));
  return logits;
}

}  // namespace vkv
