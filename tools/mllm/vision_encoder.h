// vision_encoder.h: pictures and videos -> visual tokens, on the CPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tools/mllm/model_config.h"
#include "tools/mllm/visual_input.h"
#include "tools/mllm/watch.h"
#include "tools/mllm/weights.h"

namespace vkv {

// Rows of one pass through a tower: enough to fill the matrix units, few enough to stay near the
// caches (fp32 activations of a 768-wide MLP: 6 MiB). Also those of Qwen's MLP at once where a step
// has more.
inline constexpr int64_t kVisionPassRows = 2048;

// Not thread-safe; runs on the TBB arena of the caller.
class VisionEncoder {
 public:
  virtual ~VisionEncoder() = default;

  // As Model::encode_images, of valid images.
  virtual Result<std::vector<float>> encode(std::span<const VisualInput> images,
                                            const Watch& watch) = 0;
  virtual uint64_t bytes() const = 0;  // of weights
};

// The tower that the configuration names. Errors: those of Weights::floats, naming the tensor.
Result<std::unique_ptr<VisionEncoder>> load_vision_encoder(const ModelConfig& config,
                                                           const Weights& weights);

}  // namespace vkv
