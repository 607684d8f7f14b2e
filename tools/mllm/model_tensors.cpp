// model_tensors.cpp: which tensors of a checkpoint make a model, whatever computes with them.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/model_tensors.h"

#include <fmt/format.h>

namespace vkv {

Result<DecoderTensors> decoder_tensors(const TextConfig& text, const Weights& weights) {
  VKV_TRY_ASSIGN(loader,
                 WeightLoader::make(&weights, DecoderTensors::kEmbedding,
                                    {"language_model.model.", "model.language_model.", "model."}));
  DecoderTensors tensors{std::move(loader), {}};
  if (text.tied_embeddings) return tensors;
  for (const char* name : {"language_model.lm_head.weight", "lm_head.weight"}) {
    if (!weights.contains(name)) continue;
    tensors.head = name;
    return tensors;
  }
  return Status(Code::kNotFound,
                fmt::format("{}: the weights have no lm_head.weight, and config.json does not "
                            "say tie_word_embeddings",
                            weights.path()));
}

Result<DecoderLayerTensors> decoder_layer_tensors(const TextConfig& text,
                                                  const WeightLoader& loader, int index) {
  const std::string prefix = fmt::format("layers.{}.", index);
  if (!text.qkv_bias && loader.contains(prefix + "self_attn.q_proj.bias"))
    return Status(Code::kInvalidArgument,
                  fmt::format("{}self_attn.q_proj has a bias, which a llama decoder has not: "
                              "model_type of text_config is another",
                              prefix));
  const int hidden = text.hidden, wide = text.intermediate;
  const int q_width = text.q_heads * text.head_dim, kv_width = text.kv_heads * text.head_dim;
  const auto linear = [&](const char* name, int outputs, int inputs, bool bias,
                          Activation activation = Activation::kNone) {
    return LinearTensor{prefix + name, outputs, inputs, bias, activation};
  };
  return DecoderLayerTensors{
      .attention_norm = prefix + "input_layernorm.weight",
      .mlp_norm = prefix + "post_attention_layernorm.weight",
      .q = linear("self_attn.q_proj", q_width, hidden, text.qkv_bias),
      .k = linear("self_attn.k_proj", kv_width, hidden, text.qkv_bias),
      .v = linear("self_attn.v_proj", kv_width, hidden, text.qkv_bias),
      .o = linear("self_attn.o_proj", hidden, q_width, false),
      .gate = linear("mlp.gate_proj", wide, hidden, false, Activation::kSilu),
      .up = linear("mlp.up_proj", wide, hidden, false),
      .down = linear("mlp.down_proj", hidden, wide, false)};
}

Result<VisionTensors> vision_tensors(const ModelConfig& config, const Weights& weights) {
  VKV_TRY_ASSIGN(tower,
                 WeightLoader::make(&weights, "embeddings.patch_embedding.weight",
                                    {"vision_tower.vision_model.", "vision_tower.",
                                     "model.vision_tower.vision_model.", "model.vision_tower."}));
  VKV_TRY_ASSIGN(projector,
                 WeightLoader::make(&weights, "linear_1.weight",
                                    {"multi_modal_projector.", "model.multi_modal_projector."}));
  return VisionTensors{.tower = std::move(tower),
                       .projector = std::move(projector),
                       .project_in = {.name = "linear_1",
                                      .outputs = config.text.hidden,
                                      .inputs = config.vision.hidden,
                                      .bias = config.projector_bias,
                                      .activation = config.projector_activation},
                       .project_out = {.name = "linear_2",
                                       .outputs = config.text.hidden,
                                       .inputs = config.text.hidden,
                                       .bias = config.projector_bias}};
}

Result<LinearValues> patch_values(const VisionConfig& vision, const WeightLoader& tower) {
  const int edge = vision.patch_edge;
  LinearValues values;
  VKV_TRY_ASSIGN(weight,
                 tower.floats("embeddings.patch_embedding.weight", {vision.hidden, 3, edge, edge}));
  values.weight = std::move(weight);
  if (vision.kind == VisionKind::kSiglip) {
    VKV_TRY_ASSIGN(bias, tower.floats("embeddings.patch_embedding.bias", {vision.hidden}));
    values.bias = std::move(bias);
  }
  return values;
}

VisionLayerTensors vision_layer_tensors(const VisionConfig& vision, int index) {
  const std::string prefix = fmt::format("encoder.layers.{}.", index);
  const auto linear = [&](const char* name, int outputs, int inputs,
                          Activation activation = Activation::kNone) {
    return LinearTensor{prefix + name, outputs, inputs, true, activation};
  };
  const int hidden = vision.hidden, wide = vision.intermediate;
  return {.norm1 = prefix + "layer_norm1",
          .norm2 = prefix + "layer_norm2",
          .q = linear("self_attn.q_proj", hidden, hidden),
          .k = linear("self_attn.k_proj", hidden, hidden),
          .v = linear("self_attn.v_proj", hidden, hidden),
          .out = linear("self_attn.out_proj", hidden, hidden),
          .up = linear("mlp.fc1", wide, hidden, vision.activation),
          .down = linear("mlp.fc2", hidden, wide)};
}

}  // namespace vkv
