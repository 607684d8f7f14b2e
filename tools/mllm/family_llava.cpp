// family_llava.cpp: LLaVA and LLaVA-OneVision: a CLIP or SigLIP tower, a projector, a Llama or
// Qwen2 decoder.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "tools/mllm/family.h"

namespace vkv {
namespace {

// Where the files are silent (transformers 5.17): published checkpoints leave fields out.
struct Defaults {
  const char *vision, *decoder, *select;
  int feature_layer, image_token;
};
constexpr Defaults kLlavaDefaults = {"clip_vision_model", "llama", "default", -2, 32000};
constexpr Defaults kOneVisionDefaults = {"siglip_vision_model", "qwen2", "full", -1, 151646};
constexpr int kOneVisionVideoToken = 151647;
constexpr std::string_view kAspectPrefix = "anyres_max_";

Result<VisionConfig> read_vision(const Json& object, const Defaults& defaults,
                                 const std::string& where) {
  ConfigFields fields(object, where + ": vision_config");
  VisionConfig vision;
  const std::string type = fields.text("model_type", defaults.vision);
  const bool is_clip = type == "clip_vision_model";
  if (!is_clip && type != "siglip_vision_model")
    fields.fail(Code::kUnsupported, fmt::format("model_type is \"{}\"; there are "
                                                "clip_vision_model and siglip_vision_model",
                                                type));
  vision.kind = is_clip ? VisionKind::kClip : VisionKind::kSiglip;
  vision.hidden = fields.extent("hidden_size", 768);
  vision.layers = fields.extent("num_hidden_layers", 12);
  vision.heads = fields.extent("num_attention_heads", 12);
  vision.intermediate = fields.extent("intermediate_size", 3072);
  vision.image_edge = fields.integer("image_size", 224, 1, 8192);
  vision.patch_edge = fields.integer("patch_size", is_clip ? 32 : 16, 1, 8192);
  vision.norm_epsilon =
      static_cast<float>(fields.positive("layer_norm_eps", is_clip ? 1e-5 : 1e-6));
  vision.activation = fields.activation("hidden_act", is_clip ? "quick_gelu" : "gelu_pytorch_tanh");
  if (fields.integer("num_channels", 3, 1, kExtentMax) != 3)
    fields.fail(Code::kUnsupported, "num_channels is not 3; pictures are RGB");
  if (vision.hidden % vision.heads != 0)
    fields.fail(Code::kInvalidArgument, "hidden_size is not a multiple of num_attention_heads");
  if (vision.grid() < 1)
    fields.fail(Code::kInvalidArgument, "patch_size is larger than image_size");
  if (!fields.status().ok()) return fields.status();
  return vision;
}

Status read_features(ConfigFields& fields, const Defaults& defaults, ModelConfig& config) {
  const Json* const layer = fields.find("vision_feature_layer");
  if (layer != nullptr && layer->is_array())
    fields.fail(Code::kUnsupported, "vision_feature_layer is a list; one layer is supported");
  const int layers = config.vision.layers;
  const int index =
      layer != nullptr && layer->is_array()
          ? -1
          : fields.integer("vision_feature_layer", defaults.feature_layer, -layers - 1, layers);
  config.vision_layers_used = index < 0 ? layers + 1 + index : index;

  const std::string select = fields.text("vision_feature_select_strategy", defaults.select);
  if (select == "default")
    config.feature_select = FeatureSelect::kDropFirst;
  else if (select == "full")
    config.feature_select = FeatureSelect::kFull;
  else
    fields.fail(Code::kUnsupported, fmt::format("vision_feature_select_strategy is \"{}\"; there "
                                                "are default and full",
                                                select));
  if (config.tokens_per_image() < 1)
    fields.fail(Code::kInvalidArgument, "an image would have no tokens");
  const int stated = fields.extent("image_seq_length", config.tokens_per_image());
  // Old checkpoints carry transformers' default, 576, whatever their tower gives.
  if (stated != config.tokens_per_image() && stated != 576)
    fields.fail(Code::kInvalidArgument, fmt::format("image_seq_length is {}, the vision tower "
                                                    "gives {}",
                                                    stated, config.tokens_per_image()));
  return fields.status();
}

// How many tiles' tokens a picture keeps, "anyres_max_9"; and a video's token.
void read_packing(ConfigFields& fields, ModelConfig& config) {
  const std::string aspect = fields.text("vision_aspect_ratio", "anyres_max_9");
  const bool is_known = aspect.starts_with(kAspectPrefix);
  const auto digits = std::string_view(aspect).substr(is_known ? kAspectPrefix.size() : 0);
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), config.tiles_max);
  if (!is_known || error != std::errc() || end != digits.data() + digits.size() ||
      config.tiles_max < 1 || config.tiles_max > 1024) {
    config.tiles_max = 1;
    fields.fail(
        Code::kUnsupported,
        fmt::format("vision_aspect_ratio is \"{}\"; there is anyres_max_N, N from 1 to 1024",
                    aspect));
  }
  if (config.tokens_per_image() != config.vision.grid() * config.vision.grid())
    fields.fail(
        Code::kUnsupported,
        "the tokens of a tile are no square: vision_feature_select_strategy must be full of "
        "SigLIP's, default of CLIP's");
  const char* const key =
      fields.find("video_token_id") != nullptr ? "video_token_id" : "video_token_index";
  const int last = config.text.vocabulary - 1;
  config.video_token = fields.integer(key, std::min(kOneVisionVideoToken, last), 0, last);
}

Result<DecoderKind> decoder_kind(const Json& object, const Defaults& defaults,
                                 const std::string& where) {
  ConfigFields fields(object, where);
  const std::string type = fields.text("model_type", defaults.decoder);
  VKV_TRY(fields.status());
  if (type == "llama") return DecoderKind::kLlama;
  if (type == "qwen2") return DecoderKind::kQwen2;
  return Status(Code::kUnsupported,
                fmt::format("{}: model_type is \"{}\"; there are qwen2 and llama", where, type));
}

template <bool kOneVision>
Result<ModelConfig> read_llava(const Json& root, const std::string& path) {
  const Defaults& defaults = kOneVision ? kOneVisionDefaults : kLlavaDefaults;
  VKV_TRY_ASSIGN(vision_object, find_object(root, "vision_config", path));
  VKV_TRY_ASSIGN(text_object, find_object(root, "text_config", path));
  const std::string text_where = path + ": text_config";
  VKV_TRY_ASSIGN(vision, read_vision(*vision_object, defaults, path));
  VKV_TRY_ASSIGN(kind, decoder_kind(*text_object, defaults, text_where));
  VKV_TRY_ASSIGN(text, read_text_config(*text_object, kind, text_where));
  ModelConfig config;
  config.vision = vision;
  config.text = text;
  ConfigFields fields(root, path);
  config.text.tied_embeddings |= fields.flag("tie_word_embeddings", false);
  VKV_TRY(read_features(fields, defaults, config));
  config.projector_activation = fields.activation("projector_hidden_act", "gelu");
  config.projector_bias = fields.flag("multimodal_projector_bias", true);
  const char* const image_key =
      fields.find("image_token_id") != nullptr ? "image_token_id" : "image_token_index";
  const int last = config.text.vocabulary - 1;
  config.image_token = fields.integer(image_key, std::min(defaults.image_token, last), 0, last);
  if (kOneVision) {
    read_packing(fields, config);
    config.prompt_style = PromptStyle::kLlavaQwen;
  }

  ConfigFields text_fields(*text_object, text_where);
  read_eos(text_fields, config.eos_tokens);
  read_eos(fields, config.eos_tokens);
  VKV_TRY(text_fields.status());
  VKV_TRY(fields.status());
  return config;
}

constexpr Family kFamilies[] = {
    {"llava", "LlavaForConditionalGeneration", read_llava<false>},
    {"llava_onevision", "LlavaOnevisionForConditionalGeneration", read_llava<true>},
};

}  // namespace

const std::span<const Family> kLlavaFamilies = kFamilies;

}  // namespace vkv
