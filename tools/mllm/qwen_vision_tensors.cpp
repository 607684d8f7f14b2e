// qwen_vision_tensors.cpp: which tensors make the vision tower of Qwen2-VL and Qwen2.5-VL.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/qwen_vision_tensors.h"

#include <fmt/format.h>

namespace vkv {

Result<QwenVisionTensors> qwen_vision_tensors(const ModelConfig& config, const Weights& weights) {
  VKV_TRY_ASSIGN(loader, WeightLoader::make(&weights, QwenVisionTensors::kPatch,
                                            {"visual.", "model.visual."}));
  const VisionConfig& vision = config.vision;
  const int merged = vision.hidden * vision.merge_edge * vision.merge_edge;
  return QwenVisionTensors{
      .loader = std::move(loader),
      .merge_in = {.name = "merger.mlp.0",
                   .outputs = merged,
                   .inputs = merged,
                   .bias = true,
                   .activation = Activation::kGeluErf},
      .merge_out = {
          .name = "merger.mlp.2", .outputs = config.text.hidden, .inputs = merged, .bias = true}};
}

Result<LinearValues> qwen_patch_values(const VisionConfig& vision, const WeightLoader& loader) {
  const int edge = vision.patch_edge;
  VKV_TRY_ASSIGN(weight, loader.floats(QwenVisionTensors::kPatch,
                                       {vision.hidden, 3, vision.temporal_patch, edge, edge}));
  return LinearValues{.weight = std::move(weight), .bias = {}};
}

QwenVisionLayerTensors qwen_vision_layer_tensors(const VisionConfig& vision, int index) {
  const std::string prefix = fmt::format("blocks.{}.", index);
  const auto linear = [&](const char* name, int outputs, int inputs,
                          Activation activation = Activation::kNone) {
    return LinearTensor{prefix + name, outputs, inputs, true, activation};
  };
  const int hidden = vision.hidden, wide = vision.intermediate;
  QwenVisionLayerTensors tensors = {.norm1 = prefix + "norm1",
                                    .norm2 = prefix + "norm2",
                                    .qkv = linear("attn.qkv", 3 * hidden, hidden),
                                    .out = linear("attn.proj", hidden, hidden),
                                    .gate = {},
                                    .up = linear("mlp.fc1", wide, hidden, vision.activation),
                                    .down = linear("mlp.fc2", hidden, wide)};
  if (vision.kind == VisionKind::kQwen25) {
    tensors.gate = linear("mlp.gate_proj", wide, hidden, vision.activation);
    tensors.up = linear("mlp.up_proj", wide, hidden);
    tensors.down = linear("mlp.down_proj", hidden, wide);
  }
  return tensors;
}

}  // namespace vkv
