// model.cpp: a checkpoint that runs: pixels -> visual tokens, tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/model.h"

#include <tbb/task_arena.h>

#include <optional>

#include "cpu/threads.h"
#include "tools/mllm/checkpoint.h"
#include "tools/mllm/decoder.h"
#include "tools/mllm/vision.h"

namespace vkv {

struct Model::Parts {
  explicit Parts(const ModelOptions& options) : arena(worker_threads(options.threads)) {}

  tbb::task_arena arena;
  ModelConfig config;
  std::optional<VisionTower> vision;
  std::optional<Decoder> decoder;
};

Model::Model(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Model::~Model() = default;

Result<std::unique_ptr<Model>> Model::load(const std::string& path, const ModelOptions& options) {
  auto parts = std::make_unique<Parts>(options);
  VKV_TRY_ASSIGN(checkpoint, open_checkpoint(path));
  const ModelConfig& config = parts->config = checkpoint.config;
  VKV_TRY(parts->arena.execute([&]() -> Status {
    if (config.has_vision()) {
      VKV_TRY_ASSIGN(vision, VisionTower::load(config, *checkpoint.weights));
      parts->vision.emplace(std::move(vision));
    }
    VKV_TRY_ASSIGN(decoder, Decoder::load(config, *checkpoint.weights));
    parts->decoder.emplace(std::move(decoder));
    return {};
  }));
  return std::unique_ptr<Model>(new Model(std::move(parts)));
}

const ModelConfig& Model::config() const { return parts_->config; }

uint64_t Model::weight_bytes() const {
  return (parts_->vision ? parts_->vision->bytes() : 0) + parts_->decoder->bytes();
}

Result<std::vector<float>> Model::encode_images(std::span<const std::vector<float>> images,
                                                const Watch& watch) {
  if (images.empty()) return std::vector<float>();
  if (!parts_->vision)
    return Status(Code::kInvalidArgument,
                  "the model reads text alone: ask it without pictures and videos");
  VKV_TRY(validate_images(images, parts_->config.vision));
  return parts_->arena.execute([&] { return parts_->vision->encode(images, watch); });
}

Result<std::vector<float>> Model::forward(Cache& cache, const ForwardRequest& request,
                                          const Watch& watch) {
  VKV_TRY(validate(request, parts_->config));
  return parts_->arena.execute([&] { return parts_->decoder->forward(cache, request, watch); });
}

}  // namespace vkv
