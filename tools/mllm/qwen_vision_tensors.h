// qwen_vision_tensors.h: which tensors make the vision tower of Qwen2-VL and Qwen2.5-VL.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/mllm/model_config.h"
#include "tools/mllm/weight_loader.h"

namespace vkv {

struct QwenVisionTensors {
  WeightLoader loader;
  LinearTensor merge_in, merge_out;  // the patches of a token side by side -> text.hidden

  // Names under the loader.
  static constexpr const char* kPatch = "patch_embed.proj.weight";
  static constexpr const char* kMergeNorm = "merger.ln_q";  // see QwenVisionLayerTensors::norm1
};

// Errors: kNotFound if there is no tower in the file.
Result<QwenVisionTensors> qwen_vision_tensors(const ModelConfig& config, const Weights& weights);

// The patch embedding [hidden, 3 * temporal_patch * patch_edge^2]: a convolution without overlap is
// a matrix product over the values of a patch. Errors: those of Weights::floats.
Result<LinearValues> qwen_patch_values(const VisionConfig& vision, const WeightLoader& loader);

struct QwenVisionLayerTensors {
  std::string norm1, norm2;     // .weight [hidden]: RMS norm; in Qwen2-VL also .bias: layer norm
  LinearTensor qkv, out;        // qkv: [3, heads, head_dim] outputs
  LinearTensor gate, up, down;  // Qwen2-VL has no gate: up has the activation
};

QwenVisionLayerTensors qwen_vision_layer_tensors(const VisionConfig& vision, int index);

}  // namespace vkv
