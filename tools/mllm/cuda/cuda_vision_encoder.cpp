// cuda_vision_encoder.cpp: pictures and videos -> visual tokens, on the GPU.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/cuda_vision_encoder.h"

#include <string>

#include "tools/mllm/cuda/cuda_qwen_vision.h"
#include "tools/mllm/cuda/cuda_vision.h"
#include "tools/mllm/cuda/image_attention.h"

namespace vkv {
namespace {

template <class Tower>
Result<std::unique_ptr<CudaVisionEncoder>> load(const ModelConfig& config, const Weights& weights,
                                                CudaContext* context, CudaWeights& device_weights) {
  VKV_TRY_ASSIGN(tower, Tower::load(config, weights, context, device_weights));
  return std::unique_ptr<CudaVisionEncoder>(std::make_unique<Tower>(std::move(tower)));
}

}  // namespace

template <class T>
Result<std::unique_ptr<CudaVisionEncoder>> load_cuda_vision(const ModelConfig& config,
                                                            const Weights& weights,
                                                            CudaContext* context,
                                                            CudaWeights& device_weights) {
  const int head_dim = config.vision.hidden / config.vision.heads;
  if (head_dim > kImageHeadDimMax)
    return Status(Code::kUnsupported, "the vision tower's heads have " + std::to_string(head_dim) +
                                          " channels; on a GPU they may have up to " +
                                          std::to_string(kImageHeadDimMax));
  return config.vision.is_qwen()
             ? load<CudaQwenVisionTower<T>>(config, weights, context, device_weights)
             : load<CudaVisionTower<T>>(config, weights, context, device_weights);
}

using Encoder = Result<std::unique_ptr<CudaVisionEncoder>>;
template Encoder load_cuda_vision<float>(const ModelConfig&, const Weights&, CudaContext*,
                                         CudaWeights&);
template Encoder load_cuda_vision<__nv_bfloat16>(const ModelConfig&, const Weights&, CudaContext*,
                                                 CudaWeights&);

}  // namespace vkv
