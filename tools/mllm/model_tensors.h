// model_tensors.h: which tensors of a checkpoint make a model, whatever computes with them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "tools/mllm/model_config.h"
#include "tools/mllm/weight_loader.h"

namespace vkv {

struct DecoderTensors {
  WeightLoader loader;
  std::string head;  // whole name of the output matrix [vocabulary, hidden]; empty: the embedding

  // Names under the loader.
  static constexpr const char* kEmbedding = "embed_tokens.weight";  // [vocabulary, hidden]
  static constexpr const char* kFinalNorm = "norm.weight";          // [hidden]
};

// Errors: kNotFound if there is no decoder in the file, or no output matrix of its own where
// config.json does not say that it is the embedding.
Result<DecoderTensors> decoder_tensors(const TextConfig& text, const Weights& weights);

struct DecoderLayerTensors {
  std::string attention_norm, mlp_norm;  // [hidden]
  LinearTensor q, k, v, o, gate, up, down;
};

// Errors: kInvalidArgument if the file has biases that the configuration says it has not.
Result<DecoderLayerTensors> decoder_layer_tensors(const TextConfig& text,
                                                  const WeightLoader& loader, int index);

struct VisionTensors {
  WeightLoader tower, projector;
  LinearTensor project_in, project_out;  // under projector

  // Names under the tower. The last two: CLIP only.
  static constexpr const char* kPositions = "embeddings.position_embedding.weight";
  static constexpr const char* kClass = "embeddings.class_embedding";
  static constexpr const char* kPreNorm = "pre_layrnorm";  // sic, in the files
};

// Errors: kNotFound if there is no tower or no projector in the file.
Result<VisionTensors> vision_tensors(const ModelConfig& config, const Weights& weights);

// The patch embedding [hidden, 3 * patch_edge^2]: a convolution without overlap is a matrix product
// over the pixels of a patch.
Result<LinearValues> patch_values(const VisionConfig& vision, const WeightLoader& tower);

struct VisionLayerTensors {
  std::string norm1, norm2;  // with .weight and .bias, [hidden]
  LinearTensor q, k, v, out, up, down;
};

VisionLayerTensors vision_layer_tensors(const VisionConfig& vision, int index);

}  // namespace vkv
