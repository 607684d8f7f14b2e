// text_golden.h: what transformers computed with decoders alone, and the same by a model.
// SPDX-License-Identifier: Apache-2.0
//
// tools/smollm/make_golden.py describes the files.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "tests/llava_golden.h"
#include "tools/mllm/model.h"

namespace vkv {

inline const std::string kSmollm = VKV_SOURCE_DIR "/tools/smollm/";

struct TextCase {
  std::string name;
  std::string question;  // empty: the prompt is plain text
  std::string text;
  std::string answer;
  std::vector<int32_t> tokens;
  std::vector<int32_t> greedy_tokens;
  std::vector<int32_t> logit_ids;  // [kept]
  std::vector<float> logits;       // [1 + steps, kept]
};

inline std::vector<TextCase> load_text_cases(const std::string& path) {
  const nlohmann::json list = nlohmann::json::parse(std::ifstream(path + ".json"));
  const auto file = SafetensorsFile::open(path + ".safetensors");
  VKV_CHECK(file.ok());
  std::vector<TextCase> cases;
  for (const nlohmann::json& entry : list["cases"]) {
    TextCase golden{.name = entry["name"],
                    .question = entry["question"],
                    .text = entry["text"],
                    .answer = entry["answer"],
                    .tokens = entry["tokens"],
                    .greedy_tokens = entry["greedy_tokens"]};
    golden.logits = golden_floats(file.value(), (golden.name + ".logits").c_str());
    const auto ids = file.value().tensors().find(golden.name + ".logit_ids")->second.data;
    golden.logit_ids.resize(ids.size() / sizeof(int32_t));
    std::memcpy(golden.logit_ids.data(), ids.data(), ids.size());
    cases.push_back(std::move(golden));
  }
  return cases;
}

// The kept logits after the prompt and after each greedy token: [1 + steps, kept].
inline std::vector<float> kept_logits(Model& model, Cache& cache, const TextCase& golden) {
  const SequenceId sequence = cache.create_sequence().value();
  const size_t steps = golden.logits.size() / golden.logit_ids.size() - 1;
  const std::vector<Role> roles(golden.tokens.size(), Role::kText);
  std::vector<float> kept;
  for (size_t step = 0; step <= steps; ++step) {
    ForwardRequest request = {
        .sequence = sequence, .tokens = golden.tokens, .roles = roles, .ends_window = true};
    if (step > 0)
      request = {.sequence = sequence,
                 .position = static_cast<int64_t>(golden.tokens.size() + step - 1),
                 .tokens = std::span(golden.greedy_tokens).subspan(step - 1, 1),
                 .roles = std::span(roles).first(1)};
    const auto logits = model.forward(cache, request, {});
    EXPECT_TRUE(logits.ok()) << logits.status().message();
    if (!logits.ok()) break;
    for (const int32_t id : golden.logit_ids)
      kept.push_back(logits.value()[static_cast<size_t>(id)]);
  }
  EXPECT_TRUE(cache.erase(sequence).ok());
  return kept;
}

// The greatest of any row of kept logits.
inline float kept_difference(const TextCase& golden, const std::vector<float>& actual,
                             const std::vector<float>& expected) {
  if (actual.size() != expected.size()) return INFINITY;
  const size_t kept = golden.logit_ids.size();
  float worst = 0;
  for (size_t i = 0; i < expected.size(); i += kept)
    worst = std::max(worst, golden_difference(std::span(actual).subspan(i, kept),
                                              std::span(expected).subspan(i, kept)));
  return worst;
}

}  // namespace vkv
