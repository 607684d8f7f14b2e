// vision_encoder.cpp: pictures and videos -> visual tokens, on the CPU.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/vision_encoder.h"

#include "tools/mllm/qwen_vision.h"
#include "tools/mllm/vision.h"

namespace vkv {
namespace {

template <class Tower>
Result<std::unique_ptr<VisionEncoder>> load(const ModelConfig& config, const Weights& weights) {
  VKV_TRY_ASSIGN(tower, Tower::load(config, weights));
  return std::unique_ptr<VisionEncoder>(std::make_unique<Tower>(std::move(tower)));
}

}  // namespace

Result<std::unique_ptr<VisionEncoder>> load_vision_encoder(const ModelConfig& config,
                                                           const Weights& weights) {
  return config.vision.is_qwen() ? load<QwenVisionTower>(config, weights)
                                 : load<VisionTower>(config, weights);
}

}  // namespace vkv
