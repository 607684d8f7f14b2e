// checkpoint.cpp: a model as it lies on disk: a Hugging Face folder or a GGUF file.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/checkpoint.h"

#include "tools/mllm/gguf_checkpoint.h"
#include "tools/mllm/safetensors.h"

namespace vkv {

Result<Checkpoint> open_checkpoint(const std::string& path) {
  if (is_gguf_path(path)) {
    VKV_TRY_ASSIGN(file, GgufFile::open(path));
    VKV_TRY_ASSIGN(config, gguf_model_config(file));
    auto weights = gguf_weights(std::move(file), config);
    return Checkpoint{std::move(config), std::move(weights)};
  }
  VKV_TRY_ASSIGN(config, load_model_config(path));
  VKV_TRY_ASSIGN(weights, SafetensorsWeights::open(path));
  return Checkpoint{std::move(config), std::make_unique<SafetensorsWeights>(std::move(weights))};
}

}  // namespace vkv
