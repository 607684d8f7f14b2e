// model.cpp: a checkpoint that runs: pixels -> visual tokens, tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/model.h"

#include <algorithm>

#include "tools/mllm/checkpoint.h"
#include "tools/mllm/model_backend.h"
#include "tools/mllm/tile_packing.h"
#include "tools/mllm/weight_loader.h"

namespace vkv {
namespace {

Result<std::vector<float>> load_newline(const Checkpoint& checkpoint) {
  VKV_TRY_ASSIGN(loader, WeightLoader::make(checkpoint.weights.get(), "image_newline",
                                            {"", "model.", "language_model.model."}));
  return loader.floats("image_newline", {checkpoint.config.text.hidden});
}

}  // namespace

Model::Model(ModelConfig config, std::unique_ptr<ModelBackend> backend)
    : config_(std::move(config)), backend_(std::move(backend)) {}
Model::~Model() = default;

Result<std::unique_ptr<Model>> Model::load(const std::string& path, const ModelOptions& options) {
  VKV_TRY_ASSIGN(checkpoint, open_checkpoint(path));
  VKV_TRY_ASSIGN(backend, options.device == Device::kCuda ? load_cuda_model(checkpoint, options)
                                                          : load_cpu_model(checkpoint, options));
  std::vector<float> newline;
  if (checkpoint.config.packs_tiles()) {
    VKV_TRY_ASSIGN(loaded, load_newline(checkpoint));
    newline = std::move(loaded);
  }
  std::unique_ptr<Model> model(new Model(std::move(checkpoint.config), std::move(backend)));
  model->newline_ = std::move(newline);
  return model;
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
  VKV_TRY(validate_images(images, config_));
  return config_.packs_tiles() ? encode_tiles(images, watch)
                               : backend_->encode_images(images, watch);
}

Result<std::vector<float>> Model::encode_tiles(std::span<const VisualInput> images,
                                               const Watch& watch) {
  const auto picture_values =
      static_cast<size_t>(3 * int64_t{config_.vision.image_edge} * config_.vision.image_edge);
  std::vector<VisualInput> tiles;
  for (const VisualInput& image : images)
    for (std::span<const float> left = image.values; !left.empty();
         left = left.subspan(picture_values))
      tiles.push_back(
          {.values = {left.begin(), left.begin() + static_cast<ptrdiff_t>(picture_values)},
           .shape = {}});
  VKV_TRY_ASSIGN(encoded, backend_->encode_images(tiles, watch));
  const size_t tile_values = encoded.size() / tiles.size();
  std::span<const float> left = encoded;
  std::vector<float> rows;
  for (const VisualInput& image : images) {
    const size_t values = static_cast<size_t>(tile_count(image.shape)) * tile_values;
    pack_tiles(config_, image.shape, left.first(values), newline_, rows);
    left = left.subspan(values);
  }
  return rows;
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
