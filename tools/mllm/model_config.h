// model_config.h: what a checkpoint says of its model.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

enum class Activation : uint8_t { kNone, kSilu, kGeluErf, kGeluTanh, kQuickGelu };
enum class VisionKind : uint8_t { kClip, kSiglip };

// Which rows of the tower's output the projector gets. kDropFirst ("default" in the file) leaves
// out row 0, the class token of CLIP; SigLIP has none, and loses its first patch then, as in
// transformers.
enum class FeatureSelect : uint8_t { kDropFirst, kFull };

struct VisionConfig {
  VisionKind kind = VisionKind::kSiglip;
  int hidden = 0;
  int layers = 0;
  int heads = 0;
  int intermediate = 0;
  int image_edge = 0;  // pixels; pictures are square
  int patch_edge = 0;  // pixels
  float norm_epsilon = 0;
  Activation activation = Activation::kGeluTanh;

  int grid() const { return image_edge / patch_edge; }
  int class_tokens() const { return kind == VisionKind::kClip ? 1 : 0; }
  int positions() const { return grid() * grid() + class_tokens(); }
};

struct TextConfig {
  int vocabulary = 0;
  int hidden = 0;
  int layers = 0;
  int q_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int intermediate = 0;
  int positions_max = 0;  // tokens
  float norm_epsilon = 0;
  double rope_theta = 0;
  bool qkv_bias = false;
  bool tied_embeddings = false;
};

// Far above any model; keeps products of two of them inside 64 bits and sums inside an int.
inline constexpr int kExtentMax = 1 << 24;
inline constexpr int kLayersMax = 4096;

struct ModelConfig {
  VisionConfig vision;  // all zero in a model of text alone
  TextConfig text;
  int vision_layers_used = 0;  // encoder layers up to the feature layer; 0: the embeddings
  FeatureSelect feature_select = FeatureSelect::kFull;
  Activation projector_activation = Activation::kGeluErf;
  bool projector_bias = true;
  int32_t image_token = -1;         // no token in a model of text alone
  std::vector<int32_t> eos_tokens;  // generation stops at any of them

  bool has_vision() const { return vision.layers > 0; }
  int tokens_per_image() const {  // 0 without vision
    if (!has_vision()) return 0;
    return vision.positions() - (feature_select == FeatureSelect::kDropFirst ? 1 : 0);
  }
  KvShape kv_shape() const {
    return {.layers = text.layers,
            .q_heads = text.q_heads,
            .kv_heads = text.kv_heads,
            .head_dim = text.head_dim};
  }
};

// Reads config.json and, where it exists, generation_config.json of the folder: a LLaVA
// (LlavaForConditionalGeneration), or a decoder alone (LlamaForCausalLM, Qwen2ForCausalLM).
// Errors: kNotFound without config.json; kDataLoss for JSON that does not parse; kInvalidArgument
// for a value out of range; kUnsupported for an architecture, activation, RoPE scaling, sliding
// window or quantization that the host model has no code for, naming what it has.
Result<ModelConfig> load_model_config(const std::string& folder);

}  // namespace vkv
