// checkpoint.h: a model as it lies on disk: a Hugging Face folder or a GGUF file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "tools/mllm/model_config.h"
#include "tools/mllm/weights.h"

namespace vkv {

struct Checkpoint {
  ModelConfig config;
  std::unique_ptr<Weights> weights;
};

// A folder has config.json, generation_config.json and model.safetensors (or its shards). Nothing
// is read of the weights but where they lie. Errors: those of load_model_config and
// SafetensorsWeights::open, or of GgufFile::open and gguf_model_config.
Result<Checkpoint> open_checkpoint(const std::string& path);

}  // namespace vkv
