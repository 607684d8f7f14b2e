// vision.h: the vision tower (CLIP or SigLIP) and the projector: pixels -> visual tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/mllm/linear.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/vision_encoder.h"
#include "tools/mllm/watch.h"
#include "tools/mllm/weights.h"

namespace vkv {

// Pictures of one size. Not thread-safe; runs on the TBB arena of the caller.
class VisionTower : public VisionEncoder {
 public:
  // Errors: those of Weights::floats, naming the tensor.
  static Result<VisionTower> load(const ModelConfig& config, const Weights& weights);

  // Progress counts images x layers.
  Result<std::vector<float>> encode(std::span<const VisualInput> images,
                                    const Watch& watch) override;

  uint64_t bytes() const override { return bytes_; }

 private:
  struct Norm {
    std::vector<float> weight, bias;  // [hidden]
  };
  struct Layer {
    Norm norm1, norm2;
    Linear q, k, v, out, up, down;
  };
  struct Buffers;

  VisionTower(const ModelConfig& config, Linear patch, Linear project_in, Linear project_out)
      : config_(config),
        patch_(std::move(patch)),
        project_in_(std::move(project_in)),
        project_out_(std::move(project_out)) {}

  static Result<Norm> load_norm(const class WeightLoader& loader, const std::string& name,
                                int hidden);
  static Result<Layer> load_layer(const VisionConfig& vision, const class WeightLoader& loader,
                                  int index);
  Status embed(std::span<const VisualInput> images, Buffers& buffers);
  Status run_layer(Layer& layer, int64_t image_count, Buffers& buffers);
  Status project(int64_t image_count, Buffers& buffers, float* target);
  void normalise(const Norm& norm, const float* x, int64_t rows, float* y) const;

  ModelConfig config_;
  Linear patch_;
  std::vector<float> class_embedding_;     // [hidden] for CLIP, else empty
  std::vector<float> position_embedding_;  // [positions, hidden]
  Norm pre_norm_;                          // CLIP only
  std::vector<Layer> layers_;              // those up to the feature layer
  Linear project_in_, project_out_;
  uint64_t bytes_ = 0;
};

}  // namespace vkv
