// cuda_vision_encoder.h: pictures and videos -> visual tokens, on the GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "tools/mllm/cuda/cuda_context.h"
#include "tools/mllm/cuda/cuda_weights.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/visual_input.h"
#include "tools/mllm/watch.h"
#include "tools/mllm/weights.h"

namespace vkv {

// Rows of one pass through a tower: enough to fill the matrix units, and the activations of a
// 3420-wide gated MLP in bf16 stay near 170 MB. Also those of Qwen's MLP at once where a step has
// more.
inline constexpr int64_t kCudaVisionPassRows = 8192;

// Not thread-safe.
class CudaVisionEncoder {
 public:
  virtual ~CudaVisionEncoder() = default;

  // As Model::encode_images, of valid images. When it returns, also with an error, nothing that it
  // queued is left.
  virtual Result<std::vector<float>> encode(std::span<const VisualInput> images,
                                            const Watch& watch) = 0;
};

// The tower that the configuration names, with weights of T: float or __nv_bfloat16. The context
// outlives it. Errors: those of Weights::floats, kUnsupported for heads wider than there is a
// kernel for, kOutOfMemory, kCuda.
template <class T>
Result<std::unique_ptr<CudaVisionEncoder>> load_cuda_vision(const ModelConfig& config,
                                                            const Weights& weights,
                                                            CudaContext* context,
                                                            CudaWeights& device_weights);

}  // namespace vkv
