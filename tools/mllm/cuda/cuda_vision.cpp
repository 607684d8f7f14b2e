// cuda_vision.cpp: the vision tower and the projector on the GPU: pixels -> visual tokens.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/cuda_vision.h"

#include <algorithm>

#include "tools/mllm/cuda/image_attention.h"
#include "tools/mllm/model_tensors.h"

namespace vkv {
template <class T>
Result<typename CudaVisionTower<T>::Norm> CudaVisionTower<T>::load_norm(
    const WeightLoader& loader, const std::string& name, int hidden, CudaWeights& device_weights) {
  VKV_TRY_ASSIGN(weight, device_weights.load<float>(loader, name + ".weight", {hidden}));
  VKV_TRY_ASSIGN(bias, device_weights.load<float>(loader, name + ".bias", {hidden}));
  return Result<Norm>(Norm{std::move(weight), std::move(bias)});
}

template <class T>
Result<typename CudaVisionTower<T>::Layer> CudaVisionTower<T>::load_layer(
    const VisionConfig& vision, const WeightLoader& loader, int index,
    CudaWeights& device_weights) {
  using Inner = CudaLinear<T, T>;
  using Outer = CudaLinear<T, float>;
  const VisionLayerTensors names = vision_layer_tensors(vision, index);
  VKV_TRY_ASSIGN(norm1, load_norm(loader, names.norm1, vision.hidden, device_weights));
  VKV_TRY_ASSIGN(norm2, load_norm(loader, names.norm2, vision.hidden, device_weights));
  VKV_TRY_ASSIGN(qkv, Inner::load(loader, {names.q, names.k, names.v}, device_weights));
  VKV_TRY_ASSIGN(out, Outer::load(loader, {names.out}, device_weights));
  VKV_TRY_ASSIGN(up, Inner::load(loader, {names.up}, device_weights));
  VKV_TRY_ASSIGN(down, Outer::load(loader, {names.down}, device_weights));
  return Result<Layer>(Layer{std::move(norm1), std::move(norm2), std::move(qkv), std::move(out),
                             std::move(up), std::move(down)});
}

template <class T>
Result<CudaVisionTower<T>> CudaVisionTower<T>::load(const ModelConfig& config,
                                                    const Weights& weights, CudaContext* context,
                                                    CudaWeights& device_weights) {
  const VisionConfig& vision = config.vision;
  const int hidden = vision.hidden, edge = vision.patch_edge;
  using Inner = CudaLinear<T, T>;
  using Outer = CudaLinear<T, float>;
  VKV_TRY_ASSIGN(names, vision_tensors(config, weights));
  const WeightLoader& loader = names.tower;
  VKV_TRY_ASSIGN(kernel, patch_values(vision, loader));
  VKV_TRY_ASSIGN(patch, Outer::make(hidden, 3 * edge * edge, kernel, device_weights));
  VKV_TRY_ASSIGN(project_in, Inner::load(names.projector, {names.project_in}, device_weights));
  VKV_TRY_ASSIGN(project_out, Outer::load(names.projector, {names.project_out}, device_weights));
  CudaVisionTower tower(config, context, std::move(patch), std::move(project_in),
                        std::move(project_out));

  VKV_TRY_ASSIGN(positions, device_weights.load<float>(loader, VisionTensors::kPositions,
                                                       {vision.positions(), hidden}));
  tower.position_embedding_ = std::move(positions);
  if (vision.kind == VisionKind::kClip) {
    VKV_TRY_ASSIGN(class_embedding,
                   device_weights.load<float>(loader, VisionTensors::kClass, {hidden}));
    VKV_TRY_ASSIGN(pre_norm, load_norm(loader, VisionTensors::kPreNorm, hidden, device_weights));
    tower.class_embedding_ = std::move(class_embedding);
    tower.pre_norm_ = std::move(pre_norm);
  }
  for (int index = 0; index < config.vision_layers_used; ++index) {
    VKV_TRY_ASSIGN(layer, load_layer(vision, loader, index, device_weights));
    tower.layers_.push_back(std::move(layer));
  }
  return Result<CudaVisionTower>(std::move(tower));
}

template <class T>
Status CudaVisionTower<T>::reserve_buffers(int64_t image_count) {
  const VisionConfig& vision = config_.vision;
  const int64_t rows = image_count * vision.positions(), hidden = vision.hidden;
  const int64_t patch_rows = image_count * vision.grid() * vision.grid();
  const int64_t kept = image_count * config_.tokens_per_image();
  VKV_TRY(reserve(buffers_.images, image_count * 3 * vision.image_edge * vision.image_edge));
  VKV_TRY(reserve(buffers_.patches, patch_rows * 3 * vision.patch_edge * vision.patch_edge));
  VKV_TRY(reserve(buffers_.embedded, patch_rows * hidden));
  VKV_TRY(reserve(buffers_.x, rows * hidden));
  VKV_TRY(reserve(buffers_.normed, rows * hidden));
  VKV_TRY(reserve(buffers_.qkv, rows * 3 * hidden));
  VKV_TRY(reserve(buffers_.attended, rows * hidden));
  VKV_TRY(reserve(buffers_.wide, rows * vision.intermediate));
  VKV_TRY(reserve(buffers_.middle, kept * config_.text.hidden));
  return reserve(buffers_.visual, kept * config_.text.hidden);
}

// x, normalised, goes to y.
template <class T>
template <class Out>
Status CudaVisionTower<T>::normalise(const Norm& norm, int64_t rows, Out* y) {
  return launch_layer_norm<Out>({.x = buffers_.x.data(),
                                 .weight = norm.weight.data(),
                                 .bias = norm.bias.data(),
                                 .y = y,
                                 .rows = rows,
                                 .columns = config_.vision.hidden,
                                 .epsilon = config_.vision.norm_epsilon},
                                context_->stream());
}

template <class T>
Status CudaVisionTower<T>::activate(T* x, int64_t count, Activation activation) {
  return launch_activate<T>({.x = x, .count = count, .activation = activation}, context_->stream());
}

// Patches, row by row over the picture; then positions, and for CLIP a class token before them.
template <class T>
Status CudaVisionTower<T>::embed(std::span<const VisualInput> images) {
  const VisionConfig& vision = config_.vision;
  const auto image_count = static_cast<int64_t>(images.size());
  const cudaStream_t stream = context_->stream();
  float* target = buffers_.images.data();
  for (const VisualInput& image : images) {
    VKV_TRY(copy_async(target, image.values.data(), image.values.size(), stream));
    target += image.values.size();
  }
  VKV_TRY(launch_patches<T>({.images = buffers_.images.data(),
                             .patches = buffers_.patches.data(),
                             .image_count = image_count,
                             .image_edge = vision.image_edge,
                             .patch_edge = vision.patch_edge},
                            stream));
  VKV_TRY(patch_.run(buffers_.patches.data(), image_count * vision.grid() * vision.grid(),
                     buffers_.embedded.data(), context_->products()));
  VKV_TRY(launch_positions({.patches = buffers_.embedded.data(),
                            .class_embedding = class_embedding_.data(),
                            .embedding = position_embedding_.data(),
                            .x = buffers_.x.data(),
                            .image_count = image_count,
                            .positions = vision.positions(),
                            .columns = vision.hidden},
                           stream));
  if (vision.kind != VisionKind::kClip) return {};
  return normalise(pre_norm_, image_count * vision.positions(), buffers_.x.data());
}

template <class T>
Status CudaVisionTower<T>::run_layer(const Layer& layer, int64_t image_count) {
  const VisionConfig& vision = config_.vision;
  const int64_t rows = image_count * vision.positions();
  CublasProducts& products = context_->products();
  float* const x = buffers_.x.data();
  T* const normed = buffers_.normed.data();
  VKV_TRY(normalise(layer.norm1, rows, normed));
  VKV_TRY(layer.qkv.run(normed, rows, buffers_.qkv.data(), products));
  VKV_TRY(launch_image_attention<T>({.qkv = buffers_.qkv.data(),
                                     .out = buffers_.attended.data(),
                                     .image_count = image_count,
                                     .positions = vision.positions(),
                                     .heads = vision.heads,
                                     .head_dim = vision.hidden / vision.heads},
                                    context_->stream()));
  VKV_TRY(layer.out.run_add(buffers_.attended.data(), rows, x, products));
  VKV_TRY(normalise(layer.norm2, rows, normed));
  VKV_TRY(layer.up.run(normed, rows, buffers_.wide.data(), products));
  VKV_TRY(activate(buffers_.wide.data(), rows * vision.intermediate, vision.activation));
  return layer.down.run_add(buffers_.wide.data(), rows, x, products);
}

// The selected rows of every image through the projector.
template <class T>
Status CudaVisionTower<T>::project(int64_t image_count, float* target) {
  const int64_t rows = image_count * config_.tokens_per_image();
  const int64_t values = rows * config_.text.hidden;
  CublasProducts& products = context_->products();
  VKV_TRY(launch_keep<T>({.x = buffers_.x.data(),
                          .y = buffers_.normed.data(),
                          .image_count = image_count,
                          .positions = config_.vision.positions(),
                          .kept = config_.tokens_per_image(),
                          .columns = config_.vision.hidden},
                         context_->stream()));
  VKV_TRY(project_in_.run(buffers_.normed.data(), rows, buffers_.middle.data(), products));
  VKV_TRY(activate(buffers_.middle.data(), values, config_.projector_activation));
  VKV_TRY(project_out_.run(buffers_.middle.data(), rows, buffers_.visual.data(), products));
  return copy_async(target, buffers_.visual.data(), static_cast<size_t>(values),
                    context_->stream());
}

template <class T>
Status CudaVisionTower<T>::run(std::span<const VisualInput> images, const Watch& watch,
                               std::vector<float>& embeddings) {
  const auto pass_images = std::min<size_t>(
      images.size(),
      static_cast<size_t>(std::max<int64_t>(1, kCudaVisionPassRows / config_.vision.positions())));
  VKV_TRY(reserve_buffers(static_cast<int64_t>(pass_images)));
  const size_t image_values = embeddings.size() / images.size();
  const uint64_t steps = layers_.size() + 1;  // an image: patches and layers
  const uint64_t total = images.size() * steps;
  for (size_t first = 0; first < images.size(); first += pass_images) {
    const auto pass = images.subspan(first, std::min(pass_images, images.size() - first));
    const auto image_count = static_cast<int64_t>(pass.size());
    VKV_TRY(watch.check());
    VKV_TRY(embed(pass));
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      VKV_TRY(watch.check());
      VKV_TRY(run_layer(layers_[layer], image_count));
      watch.report(first * steps + pass.size() * (layer + 1), total);
    }
    VKV_TRY(project(image_count, embeddings.data() + first * image_values));
    watch.report((first + pass.size()) * steps, total);
  }
  return {};
}

template <class T>
Result<std::vector<float>> CudaVisionTower<T>::encode(std::span<const VisualInput> images,
                                                      const Watch& watch) {
  std::vector<float> embeddings(images.size() * static_cast<size_t>(config_.tokens_per_image()) *
                                static_cast<size_t>(config_.text.hidden));
  const Status status = run(images, watch, embeddings);
  const Status finished = synchronize(context_->stream());
  VKV_TRY(status);
  VKV_TRY(finished);
  return embeddings;
}

template class CudaVisionTower<float>;
template class CudaVisionTower<__nv_bfloat16>;

}  // namespace vkv
