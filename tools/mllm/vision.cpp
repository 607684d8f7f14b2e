// vision.cpp: the vision tower (CLIP or SigLIP) and the projector: pixels -> visual tokens.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/vision.h"

#include <algorithm>
#include <cmath>

#include "cpu/parallel.h"
#include "tools/mllm/model_tensors.h"
#include "tools/mllm/ops.h"
#include "tools/mllm/vision_attention.h"

namespace vkv {
// Activations of one pass of image_count images; rows are image after image.
struct VisionTower::Buffers {
  std::vector<float> x;                  // [rows, hidden], the residual stream
  std::vector<float> normed;             // [rows, hidden]
  std::vector<float> q, k, v, attended;  // [rows, hidden]
  std::vector<float> scores;             // [image_count, heads, positions, positions]
  std::vector<float> wide;               // [rows, intermediate], or the patches' pixels
};

Result<VisionTower::Norm> VisionTower::load_norm(const WeightLoader& loader,
                                                 const std::string& name, int hidden) {
  VKV_TRY_ASSIGN(weight, loader.floats(name + ".weight", {hidden}));
  VKV_TRY_ASSIGN(bias, loader.floats(name + ".bias", {hidden}));
  return Norm{std::move(weight), std::move(bias)};
}

Result<VisionTower::Layer> VisionTower::load_layer(const VisionConfig& vision,
                                                   const WeightLoader& loader, int index) {
  const VisionLayerTensors tensors = vision_layer_tensors(vision, index);
  VKV_TRY_ASSIGN(norm1, load_norm(loader, tensors.norm1, vision.hidden));
  VKV_TRY_ASSIGN(norm2, load_norm(loader, tensors.norm2, vision.hidden));
  // The softmax scale goes into q: one pass over the scores less.
  const float scale = 1.0f / std::sqrt(static_cast<float>(vision.hidden / vision.heads));
  VKV_TRY_ASSIGN(q, loader.linear(tensors.q, scale));
  VKV_TRY_ASSIGN(k, loader.linear(tensors.k));
  VKV_TRY_ASSIGN(v, loader.linear(tensors.v));
  VKV_TRY_ASSIGN(out, loader.linear(tensors.out));
  VKV_TRY_ASSIGN(up, loader.linear(tensors.up));
  VKV_TRY_ASSIGN(down, loader.linear(tensors.down));
  return Layer{std::move(norm1), std::move(norm2), std::move(q),  std::move(k),
               std::move(v),     std::move(out),   std::move(up), std::move(down)};
}

Result<VisionTower> VisionTower::load(const ModelConfig& config, const Weights& weights) {
  const VisionConfig& vision = config.vision;
  const int hidden = vision.hidden, edge = vision.patch_edge;
  VKV_TRY_ASSIGN(tensors, vision_tensors(config, weights));
  const WeightLoader& loader = tensors.tower;
  VKV_TRY_ASSIGN(kernel, patch_values(vision, loader));
  VKV_TRY_ASSIGN(patch, Linear::make(hidden, 3 * edge * edge, kernel.weight, std::move(kernel.bias),
                                     Activation::kNone));
  VKV_TRY_ASSIGN(project_in, tensors.projector.linear(tensors.project_in));
  VKV_TRY_ASSIGN(project_out, tensors.projector.linear(tensors.project_out));
  VisionTower tower(config, std::move(patch), std::move(project_in), std::move(project_out));

  VKV_TRY_ASSIGN(positions, loader.floats(VisionTensors::kPositions, {vision.positions(), hidden}));
  tower.position_embedding_ = std::move(positions);
  if (vision.kind == VisionKind::kClip) {
    VKV_TRY_ASSIGN(class_embedding, loader.floats(VisionTensors::kClass, {hidden}));
    VKV_TRY_ASSIGN(pre_norm, load_norm(loader, VisionTensors::kPreNorm, hidden));
    tower.class_embedding_ = std::move(class_embedding);
    tower.pre_norm_ = std::move(pre_norm);
  }
  for (int index = 0; index < config.vision_layers_used; ++index) {
    VKV_TRY_ASSIGN(layer, load_layer(vision, loader, index));
    for (const Linear* linear : {&layer.q, &layer.k, &layer.v, &layer.out, &layer.up, &layer.down})
      tower.bytes_ += linear->bytes();
    tower.layers_.push_back(std::move(layer));
  }
  tower.bytes_ += tower.patch_.bytes() + tower.project_in_.bytes() + tower.project_out_.bytes() +
                  tower.position_embedding_.size() * sizeof(float);
  return tower;
}

void VisionTower::normalise(const Norm& norm, const float* x, int64_t rows, float* y) const {
  layer_norm(x, rows, norm.weight, norm.bias, config_.vision.norm_epsilon, y);
}

// Patches, row by row over the picture; then positions, and for CLIP a class token before them.
Status VisionTower::embed(std::span<const VisualInput> images, Buffers& buffers) {
  const VisionConfig& vision = config_.vision;
  const int64_t edge = vision.patch_edge, grid = vision.grid(), image_edge = vision.image_edge;
  const int64_t hidden = vision.hidden, patch_values = 3 * edge * edge;
  const int64_t patches = grid * grid, classes = vision.class_tokens();
  const auto image_count = static_cast<int64_t>(images.size());
  buffers.wide.resize(static_cast<size_t>(
      std::max(image_count * patches * patch_values,
               image_count * vision.positions() * int64_t{vision.intermediate})));

  // Both loops copy: about a nanosecond a value.
  const auto patch_rows = static_cast<size_t>(image_count * grid);
  const auto copied = static_cast<double>(image_count * patches * patch_values);
  parallel_tasks(patch_rows, copied, [&](size_t index) {
    const int64_t image = static_cast<int64_t>(index) / grid;
    const int64_t patch_row = static_cast<int64_t>(index) % grid;
    const float* const pixels = images[static_cast<size_t>(image)].values.data();
    for (int64_t patch_column = 0; patch_column < grid; ++patch_column) {
      float* target =
          buffers.wide.data() + ((image * grid + patch_row) * grid + patch_column) * patch_values;
      for (int64_t channel = 0; channel < 3; ++channel)
        for (int64_t y = 0; y < edge; ++y) {
          const float* const source = pixels +
                                      (channel * image_edge + patch_row * edge + y) * image_edge +
                                      patch_column * edge;
          target = std::copy(source, source + edge, target);
        }
    }
  });
  VKV_TRY(patch_.run(buffers.wide.data(), image_count * patches, buffers.normed.data()));

  const auto embedded_values = static_cast<double>(image_count * patches * hidden);
  parallel_tasks(images.size(), embedded_values, [&](size_t index) {
    const auto image = static_cast<int64_t>(index);
    float* const rows = buffers.x.data() + image * vision.positions() * hidden;
    std::copy(class_embedding_.begin(), class_embedding_.end(), rows);
    const float* const embedded = buffers.normed.data() + image * patches * hidden;
    std::copy(embedded, embedded + patches * hidden, rows + classes * hidden);
    for (size_t i = 0; i < position_embedding_.size(); ++i) rows[i] += position_embedding_[i];
  });
  if (vision.kind == VisionKind::kClip)
    normalise(pre_norm_, buffers.x.data(), image_count * vision.positions(), buffers.x.data());
  return {};
}

Status VisionTower::run_layer(Layer& layer, int64_t image_count, Buffers& buffers) {
  const int64_t rows = image_count * config_.vision.positions();
  float* const x = buffers.x.data();
  float* const normed = buffers.normed.data();
  normalise(layer.norm1, x, rows, normed);
  VKV_TRY(layer.q.run(normed, rows, buffers.q.data()));
  VKV_TRY(layer.k.run(normed, rows, buffers.k.data()));
  VKV_TRY(layer.v.run(normed, rows, buffers.v.data()));
  VKV_TRY(vision_attention({.q = buffers.q.data(),
                            .k = buffers.k.data(),
                            .v = buffers.v.data(),
                            .stride = config_.vision.hidden,
                            .out = buffers.attended.data(),
                            .parts = image_count,
                            .positions = config_.vision.positions(),
                            .heads = config_.vision.heads,
                            .head_dim = config_.vision.hidden / config_.vision.heads},
                           buffers.scores));
  VKV_TRY(layer.out.run_add(buffers.attended.data(), rows, x));
  normalise(layer.norm2, x, rows, normed);
  VKV_TRY(layer.up.run(normed, rows, buffers.wide.data()));
  return layer.down.run_add(buffers.wide.data(), rows, x);
}

// The selected rows of every image through the projector.
Status VisionTower::project(int64_t image_count, Buffers& buffers, float* target) {
  const int64_t hidden = config_.vision.hidden, positions = config_.vision.positions();
  const int64_t kept = config_.tokens_per_image();
  for (int64_t image = 0; image < image_count; ++image) {
    const float* const end = buffers.x.data() + (image + 1) * positions * hidden;
    std::copy(end - kept * hidden, end, buffers.normed.data() + image * kept * hidden);
  }
  const int64_t rows = image_count * kept;
  std::vector<float> middle(static_cast<size_t>(rows * config_.text.hidden));
  VKV_TRY(project_in_.run(buffers.normed.data(), rows, middle.data()));
  return project_out_.run(middle.data(), rows, target);
}

Result<std::vector<float>> VisionTower::encode(std::span<const VisualInput> images,
                                               const Watch& watch) {
  const VisionConfig& vision = config_.vision;
  const auto image_values =
      static_cast<size_t>(config_.tokens_per_image()) * static_cast<size_t>(config_.text.hidden);
  std::vector<float> embeddings(images.size() * image_values);
  const int64_t positions = vision.positions();
  const size_t pass_images = std::min<size_t>(
      images.size(), static_cast<size_t>(std::max<int64_t>(1, kVisionPassRows / positions)));
  Buffers buffers;
  const size_t stream_values = pass_images * static_cast<size_t>(positions * vision.hidden);
  for (auto* values :
       {&buffers.x, &buffers.normed, &buffers.q, &buffers.k, &buffers.v, &buffers.attended})
    values->resize(stream_values);

  const uint64_t steps = layers_.size() + 1;  // an image: patches and layers
  const uint64_t total = images.size() * steps;
  for (size_t first = 0; first < images.size(); first += pass_images) {
    const auto pass = images.subspan(first, std::min(pass_images, images.size() - first));
    const auto image_count = static_cast<int64_t>(pass.size());
    VKV_TRY(watch.check());
    VKV_TRY(embed(pass, buffers));
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      VKV_TRY(watch.check());
      VKV_TRY(run_layer(layers_[layer], image_count, buffers));
      watch.report(first * steps + pass.size() * (layer + 1), total);
    }
    VKV_TRY(project(image_count, buffers, embeddings.data() + first * image_values));
    watch.report((first + pass.size()) * steps, total);
  }
  return embeddings;
}

}  // namespace vkv
