// cuda_qwen_vision.h: the vision tower of Qwen2-VL and Qwen2.5-VL on the GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/mllm/cuda/cuda_vision_encoder.h"
#include "tools/mllm/qwen_vision_tensors.h"
#include "tools/mllm/vision_step.h"

namespace vkv {

// What QwenVisionTower does on the CPU, step for step. T is float or __nv_bfloat16: the type of
// weights and of what goes into products.
template <class T>
class CudaQwenVisionTower : public CudaVisionEncoder {
 public:
  // As load_cuda_vision.
  static Result<CudaQwenVisionTower> load(const ModelConfig& config, const Weights& weights,
                                          CudaContext* context, CudaWeights& device_weights);

  // Progress counts steps in time x layers.
  Result<std::vector<float>> encode(std::span<const VisualInput> images,
                                    const Watch& watch) override;

 private:
  struct Norm {
    CudaArray<float> weight, bias;  // [hidden]; no bias: RMS norm
  };
  struct Layer {
    Norm norm1, norm2;
    CudaLinear<T, T> qkv;
    CudaLinear<T, float> out;
    CudaLinear<T, T> wide;  // gate and up side by side; in Qwen2-VL up alone
    CudaLinear<T, float> down;
  };

  // Activations of one pass; rows are step after step, each as VisionStep has it.
  struct Buffers {
    CudaArray<float> cosine, sine;  // [rows of a step, head_dim / 2]
    CudaArray<float> values;        // [rows, patch_values]
    CudaArray<T> patches;           // the same
    CudaArray<float> x;             // [rows, hidden], the residual stream
    CudaArray<T> normed;            // [rows, hidden]
    CudaArray<T> qkv;               // [rows, 3, hidden]
    CudaArray<T> attended;          // [rows, hidden]
    CudaArray<T> wide, gated;       // [chunk, 2, intermediate], [chunk, intermediate]
    CudaArray<T> merged;            // [tokens, merge_edge^2 * hidden]
    CudaArray<float> visual;        // [tokens, text.hidden]
  };

  // Steps of one picture or video that go through at once.
  struct Pass {
    const VisionStep& step;
    int64_t step_count = 0;
    int64_t rows() const { return step_count * step.rows(); }
    int64_t tokens() const { return step_count * static_cast<int64_t>(step.token_order.size()); }
  };

  CudaQwenVisionTower(const ModelConfig& config, CudaContext* context, CudaLinear<T, float> patch,
                      CudaLinear<T, T> merge_in, CudaLinear<T, float> merge_out)
      : config_(config),
        context_(context),
        patch_(std::move(patch)),
        merge_in_(std::move(merge_in)),
        merge_out_(std::move(merge_out)) {}

  static Result<Norm> load_norm(const VisionConfig& vision, const WeightLoader& loader,
                                const std::string& name, CudaWeights& device_weights);
  static Result<Layer> load_layer(const VisionConfig& vision, const WeightLoader& loader, int index,
                                  CudaWeights& device_weights);
  Status reserve_buffers(const Pass& pass);
  Status load_angles(const VisionStep& step);
  Status normalise(const Norm& norm, int64_t rows);
  Status embed(const float* patches, const Pass& pass);
  Status attend(const Pass& pass, bool windowed);
  Status run_layer(const Layer& layer, const Pass& pass, bool windowed);
  Status run_mlp(const Layer& layer, int64_t first, int64_t rows);
  Status merge(const Pass& pass, float* target);
  Status run(std::span<const VisualInput> images, const Watch& watch, float* target);

  ModelConfig config_;
  CudaContext* context_;
  CudaLinear<T, float> patch_;
  std::vector<Layer> layers_;
  Norm merge_norm_;
  CudaLinear<T, T> merge_in_;
  CudaLinear<T, float> merge_out_;
  Buffers buffers_;
};

}  // namespace vkv
