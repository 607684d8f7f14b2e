// qwen_vision.h: the vision tower of Qwen2-VL and Qwen2.5-VL: patches -> visual tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/mllm/linear.h"
#include "tools/mllm/qwen_vision_tensors.h"
#include "tools/mllm/rope.h"
#include "tools/mllm/vision_encoder.h"
#include "tools/mllm/vision_step.h"

namespace vkv {

// Not thread-safe; runs on the TBB arena of the caller. Steps in time go through the tower some at
// once, so that memory does not grow with the length of a video.
class QwenVisionTower : public VisionEncoder {
 public:
  // Errors: those of Weights::floats, naming the tensor.
  static Result<QwenVisionTower> load(const ModelConfig& config, const Weights& weights);

  // Progress counts steps x layers.
  Result<std::vector<float>> encode(std::span<const VisualInput> images,
                                    const Watch& watch) override;

  uint64_t bytes() const override { return bytes_; }

 private:
  struct Norm {
    std::vector<float> weight, bias;  // [hidden]; no bias: RMS norm
  };
  struct Layer {
    Norm norm1, norm2;
    Linear qkv, out;
    std::optional<Linear> gate;
    Linear up, down;
  };
  struct Buffers;

  QwenVisionTower(const ModelConfig& config, Linear patch, Linear merge_in, Linear merge_out)
      : config_(config),
        patch_(std::move(patch)),
        merge_in_(std::move(merge_in)),
        merge_out_(std::move(merge_out)) {}

  static Result<Norm> load_norm(const VisionConfig& vision, const WeightLoader& loader,
                                const std::string& name);
  static Result<Layer> load_layer(const VisionConfig& vision, const WeightLoader& loader,
                                  int index);
  void normalise(const Norm& norm, const float* x, int64_t rows, float* y) const;
  Status embed(const float* patches, const VisionStep& step, int64_t step_count, Buffers& buffers);
  Status attend(const VisionStep& step, bool windowed, int64_t step_count, Buffers& buffers) const;
  Status run_layer(Layer& layer, const VisionStep& step, bool windowed, int64_t step_count,
                   Buffers& buffers);
  Status merge(const VisionStep& step, int64_t step_count, Buffers& buffers, float* target);

  ModelConfig config_;
  Linear patch_;
  std::vector<Layer> layers_;
  Norm merge_norm_;
  Linear merge_in_, merge_out_;
  uint64_t bytes_ = 0;
};

}  // namespace vkv
