// cuda_vision.h: the vision tower and the projector on the GPU: pixels -> visual tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/mllm/cuda/cuda_vision_encoder.h"

namespace vkv {

// What VisionTower does on the CPU, step for step. T is float or __nv_bfloat16: the type of weights
// and of what goes into products.
template <class T>
class CudaVisionTower : public CudaVisionEncoder {
 public:
  // As load_cuda_vision.
  static Result<CudaVisionTower> load(const ModelConfig& config, const Weights& weights,
                                      CudaContext* context, CudaWeights& device_weights);

  // Progress counts images x layers.
  Result<std::vector<float>> encode(std::span<const VisualInput> images,
                                    const Watch& watch) override;

 private:
  struct Norm {
    CudaArray<float> weight, bias;  // [hidden]
  };
  struct Layer {
    Norm norm1, norm2;
    CudaLinear<T, T> qkv;
    CudaLinear<T, float> out;
    CudaLinear<T, T> up;
    CudaLinear<T, float> down;
  };

  // Activations of one pass; rows are image after image.
  struct Buffers {
    CudaArray<float> images;    // [image_count, 3, image_edge, image_edge]
    CudaArray<T> patches;       // [patch rows, 3, patch_edge, patch_edge]
    CudaArray<float> embedded;  // [patch rows, hidden]
    CudaArray<float> x;         // [rows, hidden], the residual stream
    CudaArray<T> normed;        // [rows, hidden]
    CudaArray<T> qkv;           // [rows, 3, hidden]
    CudaArray<T> attended;      // [rows, hidden]
    CudaArray<T> wide;          // [rows, intermediate]
    CudaArray<T> middle;        // [kept rows, text.hidden]
    CudaArray<float> visual;    // [kept rows, text.hidden]
  };

  CudaVisionTower(const ModelConfig& config, CudaContext* context, CudaLinear<T, float> patch,
                  CudaLinear<T, T> project_in, CudaLinear<T, float> project_out)
      : config_(config),
        context_(context),
        patch_(std::move(patch)),
        project_in_(std::move(project_in)),
        project_out_(std::move(project_out)) {}

  static Result<Norm> load_norm(const WeightLoader& loader, const std::string& name, int hidden,
                                CudaWeights& device_weights);
  static Result<Layer> load_layer(const VisionConfig& vision, const WeightLoader& loader, int index,
                                  CudaWeights& device_weights);
  Status reserve_buffers(int64_t image_count);
  Status embed(std::span<const VisualInput> images);
  Status run_layer(const Layer& layer, int64_t image_count);
  Status project(int64_t image_count, float* target);
  template <class Out>
  Status normalise(const Norm& norm, int64_t rows, Out* y);
  Status activate(T* x, int64_t count, Activation activation);
  Status run(std::span<const VisualInput> images, const Watch& watch,
             std::vector<float>& embeddings);

  ModelConfig config_;
  CudaContext* context_;
  CudaLinear<T, float> patch_;
  CudaArray<float> class_embedding_;     // [hidden] for CLIP, else empty
  CudaArray<float> position_embedding_;  // [positions, hidden]
  Norm pre_norm_;                        // CLIP only
  std::vector<Layer> layers_;            // those up to the feature layer
  CudaLinear<T, T> project_in_;
  CudaLinear<T, float> project_out_;
  Buffers buffers_;
};

}  // namespace vkv
