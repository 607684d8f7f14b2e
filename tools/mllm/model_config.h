// model_config.h: what a checkpoint says of its model.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/prompt_style.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

enum class Activation : uint8_t { kNone, kSilu, kGeluErf, kGeluTanh, kQuickGelu };
enum class VisionKind : uint8_t { kClip, kSiglip, kQwen2, kQwen25 };

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

  // kQwen2 and kQwen25: pictures of any size, and pairs of frames.
  int temporal_patch = 1;         // frames that a patch goes through
  int merge_edge = 1;             // patches; a square of them becomes one token
  int window_edge = 0;            // tokens; 0: every layer sees the whole step
  std::vector<int> whole_layers;  // layers that do so although there are windows
  // Positions of RoPE that a second of a video takes; 0: each step takes one.
  int positions_per_second = 0;

  int patch_values() const { return 3 * temporal_patch * patch_edge * patch_edge; }
  bool is_qwen() const { return kind == VisionKind::kQwen2 || kind == VisionKind::kQwen25; }
  // Of pictures of one size.
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
  // M-RoPE (Wang et al. 2024, "Qwen2-VL"): pairs of channels that turn by the time, the row and the
  // column of a token, in this order. All zero: every pair turns by the one position.
  std::array<int, 3> rope_section = {};
  bool qkv_bias = false;
  bool tied_embeddings = false;

  bool has_rope_axes() const { return rope_section[0] > 0; }
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
  int tiles_max = 0;         // LLaVA-OneVision: of more, a picture's tokens are scaled down; else 0
  int32_t image_token = -1;  // no token in a model of text alone
  int32_t video_token = -1;  // where a video's tokens are others than a picture's
  std::vector<int32_t> eos_tokens;  // generation stops at any of them

  PromptStyle prompt_style = PromptStyle::kAuto;

  bool has_vision() const { return vision.layers > 0; }
  // Whether tiles and frames are packed as tile_packing.h has it.
  bool packs_tiles() const { return tiles_max > 0; }
  bool is_visual(int32_t token) const {
    return token >= 0 && (token == image_token || token == video_token);
  }
  // Of what goes through a tower that takes one size; else 0. visual_layout.h has it of any media.
  int tokens_per_image() const {
    if (!has_vision() || vision.is_qwen()) return 0;
    return vision.positions() - (feature_select == FeatureSelect::kDropFirst ? 1 : 0);
  }
  KvShape kv_shape() const {
    return {.layers = text.layers,
            .q_heads = text.q_heads,
            .kv_heads = text.kv_heads,
            .head_dim = text.head_dim};
  }
};

// Reads config.json and, where it exists, generation_config.json of the folder, of a family that
// family.h lists. Errors: kNotFound without config.json; kDataLoss for JSON that does not parse;
// kInvalidArgument for a value out of range; kUnsupported for a family, activation, RoPE scaling,
// sliding window or quantization that the host model has no code for, naming what it has.
Result<ModelConfig> load_model_config(const std::string& folder);

}  // namespace vkv
