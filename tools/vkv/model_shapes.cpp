// model_shapes.cpp: what the config.json of each model says.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/model_shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace vkv {
namespace {

struct NamedShape {
  const char* name;
  TextConfig text;
};

// From the config.json of each model.
constexpr NamedShape kShapes[] = {
    {"smollm2-135m",
     {.vocabulary = 49152,
      .hidden = 576,
      .layers = 30,
      .q_heads = 9,
      .kv_heads = 3,
      .head_dim = 64,
      .intermediate = 1536,
      .norm_epsilon = 1e-5f,
      .rope_theta = 1e5,
      .tied_embeddings = true}},
    {"llava-1.5-7b",
     {.vocabulary = 32064,
      .hidden = 4096,
      .layers = 32,
      .q_heads = 32,
      .kv_heads = 32,
      .head_dim = 128,
      .intermediate = 11008,
      .norm_epsilon = 1e-5f,
      .rope_theta = 1e4}},
    {"qwen2.5-7b",
     {.vocabulary = 152064,
      .hidden = 3584,
      .layers = 28,
      .q_heads = 28,
      .kv_heads = 4,
      .head_dim = 128,
      .intermediate = 18944,
      .norm_epsilon = 1e-6f,
      .rope_theta = 1e6,
      .qkv_bias = true}},
};

}  // namespace

std::string model_shape_names() {
  std::string names;
  for (const NamedShape& shape : kShapes)
    names += (names.empty() ? "" : ", ") + std::string(shape.name);
  return names;
}

Result<TextConfig> named_text_shape(std::string_view name) {
  const auto* const shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                         [&](const auto& one) { return name == one.name; });
  if (shape != std::end(kShapes)) return shape->text;
  return Status(Code::kInvalidArgument,
                fmt::format("no shape is called \"{}\"; there are {}", name, model_shape_names()));
}

uint64_t step_weight_bytes(const TextConfig& text) {
  const auto hidden = static_cast<uint64_t>(text.hidden);
  const auto width = [&](int heads) { return static_cast<uint64_t>(heads) * text.head_dim; };
  const uint64_t qkv = width(text.q_heads + 2 * text.kv_heads);
  const uint64_t layer = hidden * qkv + (text.qkv_bias ? qkv : 0) + width(text.q_heads) * hidden +
                         3 * hidden * static_cast<uint64_t>(text.intermediate) + 2 * hidden;
  const uint64_t head = static_cast<uint64_t>(text.vocabulary) * hidden;
  return 2 * (static_cast<uint64_t>(text.layers) * layer + head + 2 * hidden);
}

}  // namespace vkv
