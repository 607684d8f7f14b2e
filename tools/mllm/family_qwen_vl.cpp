// family_qwen_vl.cpp: Qwen2-VL and Qwen2.5-VL: pictures of any size, M-RoPE, a Qwen2 decoder.
// SPDX-License-Identifier: Apache-2.0
//
// Sources: Wang et al. 2024, "Qwen2-VL"; Bai et al. 2025, "Qwen2.5-VL Technical Report".
#include <fmt/format.h>

#include "tools/mllm/family.h"
#include "tools/mllm/vision_step.h"

namespace vkv {
namespace {

// Where the file is silent (transformers 5.17).
constexpr int kImageToken = 151655, kVideoToken = 151656;

// Of one frame edge: a number, or the same number twice.
void check_extents(ConfigFields& fields, const VisionConfig& vision) {
  if (vision.hidden % vision.heads != 0 || vision.hidden / vision.heads % 4 != 0)
    fields.fail(Code::kInvalidArgument,
                fmt::format("{} channels are not {} heads of a multiple of 4, which turn in pairs "
                            "by row and column",
                            vision.hidden, vision.heads));
  for (const char* key : {"in_chans", "in_channels"})
    if (fields.integer(key, 3, 1, kExtentMax) != 3)
      fields.fail(Code::kUnsupported, fmt::format("{} is not 3; pictures are RGB", key));
  for (const int layer : vision.whole_layers)
    if (layer >= vision.layers)
      fields.fail(
          Code::kInvalidArgument,
          fmt::format("fullatt_block_indexes has {}, there are {} layers", layer, vision.layers));
}

// Of the tower: transformers 5 writes it out, published files leave it to the code.
void check_rope(ConfigFields& fields) {
  const Json* const rope = fields.find("rope_parameters");
  if (rope == nullptr) return;
  if (!rope->is_object())
    return fields.fail(Code::kInvalidArgument, "rope_parameters is not an object");
  ConfigFields rope_fields(*rope, "rope_parameters");
  const std::string type = rope_fields.text("rope_type", "axial");
  const double theta = rope_fields.positive("rope_theta", kQwenVisionTheta);
  if (!rope_fields.status().ok())
    return fields.fail(rope_fields.status().code(), rope_fields.status().message());
  if ((type != "axial" && type != "default") || theta != kQwenVisionTheta)
    fields.fail(Code::kUnsupported,
                fmt::format("rope_parameters have rope_type \"{}\" and rope_theta {}; there is "
                            "\"axial\" with {}",
                            type, theta, kQwenVisionTheta));
}

Result<VisionConfig> read_vision(const Json& object, VisionKind kind, int text_hidden,
                                 const std::string& path) {
  ConfigFields fields(object, path + ": vision_config");
  VisionConfig vision;
  vision.kind = kind;
  const bool is_qwen2 = kind == VisionKind::kQwen2;
  vision.layers = fields.integer("depth", 32, 1, kLayersMax);
  vision.heads = fields.extent("num_heads", 16);
  vision.patch_edge = fields.integer("patch_size", 14, 1, 1024);
  vision.temporal_patch = fields.integer("temporal_patch_size", 2, 1, 64);
  vision.merge_edge = fields.integer("spatial_merge_size", 2, 1, 64);
  vision.norm_epsilon = 1e-6f;  // of both, whatever the file says
  vision.activation = fields.activation("hidden_act", is_qwen2 ? "quick_gelu" : "silu");
  // hidden_size is the decoder's in Qwen2-VL and the tower's in Qwen2.5-VL.
  vision.hidden = fields.extent(is_qwen2 ? "embed_dim" : "hidden_size", is_qwen2 ? 1280 : 3584);
  const int out = fields.extent(is_qwen2 ? "hidden_size" : "out_hidden_size", 3584);
  if (out != text_hidden)
    fields.fail(Code::kInvalidArgument,
                fmt::format("the tower gives {} channels, the decoder has {}", out, text_hidden));
  if (is_qwen2) {
    vision.intermediate = vision.hidden * fields.integer("mlp_ratio", 4, 1, 64);
  } else {
    vision.intermediate = fields.extent("intermediate_size", 3420);
    if (vision.activation != Activation::kSilu)
      fields.fail(Code::kUnsupported, "hidden_act of the tower is not silu");
    const int merged_edge = vision.patch_edge * vision.merge_edge;
    const int window = fields.integer("window_size", 112, merged_edge, 1 << 20);
    vision.window_edge = window / merged_edge;
    vision.whole_layers = fields.integers("fullatt_block_indexes", {7, 15, 23, 31}, kLayersMax);
    vision.positions_per_second = fields.integer("tokens_per_second", 4, 1, 1000);
  }
  check_extents(fields, vision);
  check_rope(fields);
  if (!fields.status().ok()) return fields.status();
  return vision;
}

template <VisionKind kKind>
Result<ModelConfig> read_qwen_vl(const Json& root, const std::string& path) {
  VKV_TRY_ASSIGN(vision_object, find_object(root, "vision_config", path));
  // Published checkpoints have the decoder's fields on top, newer ones in text_config.
  const auto nested = root.find("text_config");
  const bool is_nested = nested != root.end() && nested->is_object();
  const Json& text_object = is_nested ? *nested : root;
  const std::string text_where = is_nested ? path + ": text_config" : path;
  VKV_TRY_ASSIGN(text, read_text_config(text_object, DecoderKind::kQwen2Vl, text_where));
  VKV_TRY_ASSIGN(vision, read_vision(*vision_object, kKind, text.hidden, path));
  if (!text.has_rope_axes())
    return Status(
        Code::kInvalidArgument,
        fmt::format("{}: no mrope_section in rope_parameters or rope_scaling", text_where));
  ModelConfig config;
  config.text = text;
  config.vision = vision;
  config.vision_layers_used = vision.layers;
  config.prompt_style = PromptStyle::kQwenVl;
  ConfigFields fields(root, path);
  config.text.tied_embeddings |= fields.flag("tie_word_embeddings", false);
  const int last = config.text.vocabulary - 1;
  config.image_token = fields.integer("image_token_id", std::min(kImageToken, last), 0, last);
  config.video_token = fields.integer("video_token_id", std::min(kVideoToken, last), 0, last);
  ConfigFields text_fields(text_object, text_where);
  read_eos(text_fields, config.eos_tokens);
  read_eos(fields, config.eos_tokens);
  VKV_TRY(text_fields.status());
  VKV_TRY(fields.status());
  return config;
}

constexpr Family kFamilies[] = {
    {"qwen2_vl", "Qwen2VLForConditionalGeneration", read_qwen_vl<VisionKind::kQwen2>},
    {"qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", read_qwen_vl<VisionKind::kQwen25>},
};

}  // namespace

const std::span<const Family> kQwenVlFamilies = kFamilies;

}  // namespace vkv
