// model.cpp: a checkpoint that runs: pixels -> visual tokens, tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/model.h"

#include <algorithm>

#include "tools/mllm/checkpoint.h"
#include "tools/mllm/model_backend.h"

namespace vkv {

Model::Model(ModelConfig config, std::unique_ptr<ModelBackend> backend)
    : config_(std::move(config)), backend_(std::move(backend)) {}
Model::~Model() = default;

Result<std::unique_ptr<Model>> Model::load(const std::string& path, const ModelOptions& options) {
  VKV_TRY_ASSIGN(checkpoint, open_checkpoint(path));
  VKV_TRY_ASSIGN(backend, options.device == Device::kCuda ? load_cuda_model(checkpoint, options)
                                                          : load_cpu_model(checkpoint, options));
  return std::unique_ptr<Model>(new Model(std::move(checkpoint.config), std::move(backend)));
}

ElementType Model::element() const { return backend_->element(); }
void* Model::cuda_stream() const { return backend_->cuda_stream(); }
uint64_t Model::weight_bytes() const { return backend_->weight_bytes(); }

Result<std::vector<float>> Model::encode_images(std::span<const VisualInput> images,
                                                const Watch& watch) {
  if (images.empty()) return std::vector<float>();
  if (!config_.has_vision())
    return Status(Code::kInvalidArgument,
                  "the model reads text alone: ask it without pictures and videos");
  VKV_TRY(validate_images(images, config_.vision));
  return backend_->encode_images(images, watch);
}

int64_t Model::steps_per_pass(const VisualShape& shape) const {
  const VisionConfig& vision = config_.vision;
  const int64_t rows =
      vision.is_qwen() ? int64_t{shape.height} * shape.width : int64_t{vision.positions()};
  return std::max<int64_t>(1, backend_->vision_pass_rows() / rows);
}

Result<std::vector<float>> Model::forward(Cache& cache, const ForwardRequest& request,
                                          const Watch& watch) {
  return forward(cache, ForwardBatch(&request, 1), watch);
}

Result<std::vector<float>> Model::forward(Cache& cache, ForwardBatch batch, const Watch& watch) {
  VKV_TRY(validate(batch, config_));
  return backend_->forward(cache, batch, watch);
}

}  // namespace vkv
