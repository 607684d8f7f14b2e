// llava_golden.h: checkpoints of the repository and what transformers computed with them.
// SPDX-License-Identifier: Apache-2.0
//
// tools/tinyvlm/make_golden.py describes the files.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/mllm/safetensors.h"

namespace vkv {

inline const std::string kTinyVlm = VKV_SOURCE_DIR "/tools/tinyvlm/";
inline const std::string kRandomCheckpoint = kTinyVlm + "golden/random";

struct GoldenCase {
  std::string name;
  std::string prompt;               // <image> once an image
  std::string question;             // inside the prompt
  std::vector<std::string> images;  // file names in golden/images
  std::string answer;               // text of greedy_tokens
  std::vector<int32_t> tokens;      // of the prompt, images expanded
  std::vector<int32_t> greedy_tokens;
  std::vector<float> pixels;         // [images, 3, H, W]; only some cases
  std::vector<float> features;       // [positions, hidden] of the first image
  std::vector<float> prompt_logits;  // [vocabulary]
  std::vector<float> step_logits;    // [steps, vocabulary]
};

inline std::vector<float> golden_floats(const SafetensorsFile& file, const char* name) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end()) return {};
  std::vector<float> values(found->second.data.size() / sizeof(float));
  std::memcpy(values.data(), found->second.data.data(), found->second.data.size());
  return values;
}

inline std::vector<int32_t> golden_tokens(const SafetensorsFile& file, const char* name) {
  const std::span<const std::byte> data = file.tensors().find(name)->second.data;
  std::vector<int64_t> wide(data.size() / sizeof(int64_t));
  std::memcpy(wide.data(), data.data(), data.size());
  return {wide.begin(), wide.end()};
}

// max|actual - expected| / max(1, max|expected|); infinite if anything is not finite.
inline float golden_difference(std::span<const float> actual, std::span<const float> expected) {
  if (actual.size() != expected.size()) return INFINITY;
  float greatest = 1, worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    greatest = std::max(greatest, std::abs(expected[i]));
    const float gap = std::abs(actual[i] - expected[i]);
    worst = std::isfinite(gap) ? std::max(worst, gap) : INFINITY;
  }
  return worst / greatest;
}

inline std::vector<GoldenCase> load_golden_cases(const std::string& folder) {
  const nlohmann::json list = nlohmann::json::parse(std::ifstream(folder + "/cases.json"));
  std::vector<GoldenCase> cases;
  for (const nlohmann::json& entry : list["cases"]) {
    GoldenCase golden;
    golden.name = entry["name"];
    golden.prompt = entry["prompt"];
    golden.images = entry["images"];
    golden.answer = entry["answer"];
    const std::string before = "Question: ", after = " Answer:";
    const size_t begin = golden.prompt.find(before) + before.size();
    golden.question = golden.prompt.substr(begin, golden.prompt.rfind(after) - begin);

    const Result<SafetensorsFile> file =
        SafetensorsFile::open(folder + "/" + golden.name + ".safetensors");
    VKV_CHECK(file.ok());
    golden.tokens = golden_tokens(file.value(), "input_ids");
    golden.greedy_tokens = golden_tokens(file.value(), "greedy_tokens");
    golden.pixels = golden_floats(file.value(), "pixel_values");
    golden.features = golden_floats(file.value(), "image_features");
    golden.prompt_logits = golden_floats(file.value(), "prompt_logits");
    golden.step_logits = golden_floats(file.value(), "step_logits");
    cases.push_back(std::move(golden));
  }
  return cases;
}

}  // namespace vkv
