// cuda_qwen_vision.cpp: the vision tower of Qwen2-VL and Qwen2.5-VL on the GPU.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/cuda_qwen_vision.h"

#include <algorithm>

#include "tools/mllm/cuda/image_attention.h"
#include "tools/mllm/rope.h"
#include "tools/mllm/visual_layout.h"

namespace vkv {
template <class T>
Result<typename CudaQwenVisionTower<T>::Norm> CudaQwenVisionTower<T>::load_norm(
    const VisionConfig& vision, const WeightLoader& loader, const std::string& name,
    CudaWeights& device_weights) {
  VKV_TRY_ASSIGN(weight, device_weights.load<float>(loader, name + ".weight", {vision.hidden}));
  Norm norm{std::move(weight), {}};
  if (vision.kind == VisionKind::kQwen2) {
    VKV_TRY_ASSIGN(bias, device_weights.load<float>(loader, name + ".bias", {vision.hidden}));
    norm.bias = std::move(bias);
  }
  return Result<Norm>(std::move(norm));
}

template <class T>
Result<typename CudaQwenVisionTower<T>::Layer> CudaQwenVisionTower<T>::load_layer(
    const VisionConfig& vision, const WeightLoader& loader, int index,
    CudaWeights& device_weights) {
  using Inner = CudaLinear<T, T>;
  using Outer = CudaLinear<T, float>;
  const QwenVisionLayerTensors names = qwen_vision_layer_tensors(vision, index);
  VKV_TRY_ASSIGN(norm1, load_norm(vision, loader, names.norm1, device_weights));
  VKV_TRY_ASSIGN(norm2, load_norm(vision, loader, names.norm2, device_weights));
  VKV_TRY_ASSIGN(qkv, Inner::load(loader, {names.qkv}, device_weights));
  VKV_TRY_ASSIGN(out, Outer::load(loader, {names.out}, device_weights));
  VKV_TRY_ASSIGN(down, Outer::load(loader, {names.down}, device_weights));
  auto wide = names.gate.name.empty() ? Inner::load(loader, {names.up}, device_weights)
                                      : Inner::load(loader, {names.gate, names.up}, device_weights);
  VKV_TRY(wide.status());
  return Result<Layer>(Layer{std::move(norm1), std::move(norm2), std::move(qkv), std::move(out),
                             std::move(wide.value()), std::move(down)});
}

template <class T>
Result<CudaQwenVisionTower<T>> CudaQwenVisionTower<T>::load(const ModelConfig& config,
                                                            const Weights& weights,
                                                            CudaContext* context,
                                                            CudaWeights& device_weights) {
  using Inner = CudaLinear<T, T>;
  using Outer = CudaLinear<T, float>;
  const VisionConfig& vision = config.vision;
  VKV_TRY_ASSIGN(names, qwen_vision_tensors(config, weights));
  const WeightLoader& loader = names.loader;
  VKV_TRY_ASSIGN(kernel, qwen_patch_values(vision, loader));
  VKV_TRY_ASSIGN(patch, Outer::make(vision.hidden, vision.patch_values(), kernel, device_weights));
  VKV_TRY_ASSIGN(merge_in, Inner::load(loader, {names.merge_in}, device_weights));
  VKV_TRY_ASSIGN(merge_out, Outer::load(loader, {names.merge_out}, device_weights));
  CudaQwenVisionTower tower(config, context, std::move(patch), std::move(merge_in),
                            std::move(merge_out));
  VKV_TRY_ASSIGN(merge_norm,
                 load_norm(vision, loader, QwenVisionTensors::kMergeNorm, device_weights));
  tower.merge_norm_ = std::move(merge_norm);
  for (int index = 0; index < vision.layers; ++index) {
    VKV_TRY_ASSIGN(layer, load_layer(vision, loader, index, device_weights));
    tower.layers_.push_back(std::move(layer));
  }
  return Result<CudaQwenVisionTower>(std::move(tower));
}

template <class T>
Status CudaQwenVisionTower<T>::reserve_buffers(const Pass& pass) {
  const VisionConfig& vision = config_.vision;
  const int64_t rows = pass.rows(), hidden = vision.hidden;
  const int64_t chunk = std::min(rows, kCudaVisionPassRows);
  VKV_TRY(reserve(buffers_.values, rows * vision.patch_values()));
  VKV_TRY(reserve(buffers_.patches, rows * vision.patch_values()));
  VKV_TRY(reserve(buffers_.x, rows * hidden));
  VKV_TRY(reserve(buffers_.normed, rows * hidden));
  VKV_TRY(reserve(buffers_.qkv, rows * 3 * hidden));
  VKV_TRY(reserve(buffers_.attended, rows * hidden));
  VKV_TRY(reserve(buffers_.wide, chunk * 2 * vision.intermediate));
  VKV_TRY(reserve(buffers_.gated, chunk * vision.intermediate));
  VKV_TRY(reserve(buffers_.merged, rows * hidden));
  return reserve(buffers_.visual, pass.tokens() * config_.text.hidden);
}

template <class T>
Status CudaQwenVisionTower<T>::load_angles(const VisionStep& step) {
  const VisionConfig& vision = config_.vision;
  const RopeTable rope(step.positions,
                       image_rope_channels(vision.hidden / vision.heads, kQwenVisionTheta));
  const size_t count = rope.cosine().size();
  VKV_TRY(reserve(buffers_.cosine, static_cast<int64_t>(count)));
  VKV_TRY(reserve(buffers_.sine, static_cast<int64_t>(count)));
  const cudaStream_t stream = context_->stream();
  VKV_TRY(copy_async(buffers_.cosine.data(), rope.cosine().data(), count, stream));
  VKV_TRY(copy_async(buffers_.sine.data(), rope.sine().data(), count, stream));
  return synchronize(stream);  // the table goes
}

// x, normalised, goes to `normed`.
template <class T>
Status CudaQwenVisionTower<T>::normalise(const Norm& norm, int64_t rows) {
  const VisionConfig& vision = config_.vision;
  if (norm.bias.size() == 0)
    return launch_rms_norm<T>({.x = buffers_.x.data(),
                               .weight = norm.weight.data(),
                               .y = buffers_.normed.data(),
                               .rows = rows,
                               .columns = vision.hidden,
                               .epsilon = vision.norm_epsilon},
                              context_->stream());
  return launch_layer_norm<T>({.x = buffers_.x.data(),
                               .weight = norm.weight.data(),
                               .bias = norm.bias.data(),
                               .y = buffers_.normed.data(),
                               .rows = rows,
                               .columns = vision.hidden,
                               .epsilon = vision.norm_epsilon},
                              context_->stream());
}

// Patches, token by token as the step has them.
template <class T>
Status CudaQwenVisionTower<T>::embed(const float* patches, const Pass& pass) {
  const auto tokens = static_cast<int64_t>(pass.step.token_order.size());
  const int64_t values = pass.rows() * config_.vision.patch_values();
  const int64_t token_values = values / pass.tokens();
  std::vector<float> ordered(static_cast<size_t>(values));
  for (int64_t i = 0; i < pass.tokens(); ++i) {
    const int64_t source =
        i / tokens * tokens + pass.step.token_order[static_cast<size_t>(i % tokens)];
    std::copy_n(patches + source * token_values, token_values, ordered.data() + i * token_values);
  }
  const cudaStream_t stream = context_->stream();
  VKV_TRY(copy_async(buffers_.values.data(), ordered.data(), ordered.size(), stream));
  VKV_TRY(launch_convert<T>(
      {.source = buffers_.values.data(), .target = buffers_.patches.data(), .count = values},
      stream));
  return patch_.run(buffers_.patches.data(), pass.rows(), buffers_.x.data(), context_->products());
}

template <class T>
Status CudaQwenVisionTower<T>::attend(const Pass& pass, bool windowed) {
  const VisionConfig& vision = config_.vision;
  const auto run = [&](int64_t row, int64_t parts, int64_t positions) {
    return launch_image_attention<T>({.qkv = buffers_.qkv.data() + row * 3 * vision.hidden,
                                      .out = buffers_.attended.data() + row * vision.hidden,
                                      .image_count = parts,
                                      .positions = static_cast<int>(positions),
                                      .heads = vision.heads,
                                      .head_dim = vision.hidden / vision.heads},
                                     context_->stream());
  };
  const int64_t rows = pass.step.rows();
  if (!windowed) return run(0, pass.step_count, rows);
  for (int64_t index = 0; index < pass.step_count; ++index)
    for (const VisionStep::Run& windows : pass.step.windows)
      VKV_TRY(run(index * rows + windows.first_row, windows.parts, windows.positions));
  return {};
}

// Of the normalised rows [first, first + rows), at most kCudaVisionPassRows.
template <class T>
Status CudaQwenVisionTower<T>::run_mlp(const Layer& layer, int64_t first, int64_t rows) {
  const VisionConfig& vision = config_.vision;
  CublasProducts& products = context_->products();
  const cudaStream_t stream = context_->stream();
  float* const x = buffers_.x.data() + first * vision.hidden;
  T* const wide = buffers_.wide.data();
  VKV_TRY(layer.wide.run(buffers_.normed.data() + first * vision.hidden, rows, wide, products));
  if (vision.kind == VisionKind::kQwen2) {
    VKV_TRY(launch_activate<T>(
        {.x = wide, .count = rows * vision.intermediate, .activation = vision.activation}, stream));
    return layer.down.run_add(wide, rows, x, products);
  }
  VKV_TRY(launch_gate<T>(
      {.gate_up = wide, .y = buffers_.gated.data(), .rows = rows, .columns = vision.intermediate},
      stream));
  return layer.down.run_add(buffers_.gated.data(), rows, x, products);
}

template <class T>
Status CudaQwenVisionTower<T>::run_layer(const Layer& layer, const Pass& pass, bool windowed) {
  const VisionConfig& vision = config_.vision;
  const int64_t rows = pass.rows();
  CublasProducts& products = context_->products();
  VKV_TRY(normalise(layer.norm1, rows));
  VKV_TRY(layer.qkv.run(buffers_.normed.data(), rows, buffers_.qkv.data(), products));
  VKV_TRY(launch_turn<T>({.qkv = buffers_.qkv.data(),
                          .cosine = buffers_.cosine.data(),
                          .sine = buffers_.sine.data(),
                          .rows = rows,
                          .period = pass.step.rows(),
                          .heads = vision.heads,
                          .head_dim = vision.hidden / vision.heads},
                         context_->stream()));
  VKV_TRY(attend(pass, windowed));
  VKV_TRY(layer.out.run_add(buffers_.attended.data(), rows, buffers_.x.data(), products));
  VKV_TRY(normalise(layer.norm2, rows));
  for (int64_t first = 0; first < rows; first += kCudaVisionPassRows)
    VKV_TRY(run_mlp(layer, first, std::min(kCudaVisionPassRows, rows - first)));
  return {};
}

// The patches of each token together, through the merger, and back to the order of the picture.
template <class T>
Status CudaQwenVisionTower<T>::merge(const Pass& pass, float* target) {
  const int64_t hidden = config_.text.hidden, count = pass.tokens();
  const auto tokens = static_cast<int64_t>(pass.step.token_order.size());
  CublasProducts& products = context_->products();
  const cudaStream_t stream = context_->stream();
  VKV_TRY(normalise(merge_norm_, pass.rows()));
  VKV_TRY(merge_in_.run(buffers_.normed.data(), count, buffers_.merged.data(), products));
  VKV_TRY(launch_activate<T>({.x = buffers_.merged.data(),
                              .count = pass.rows() * config_.vision.hidden,
                              .activation = Activation::kGeluErf},
                             stream));
  VKV_TRY(merge_out_.run(buffers_.merged.data(), count, buffers_.visual.data(), products));
  std::vector<float> ordered(static_cast<size_t>(count * hidden));
  VKV_TRY(copy_async(ordered.data(), buffers_.visual.data(), ordered.size(), stream));
  VKV_TRY(synchronize(stream));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place =
        i / tokens * tokens + pass.step.token_order[static_cast<size_t>(i % tokens)];
    std::copy_n(ordered.data() + i * hidden, hidden, target + place * hidden);
  }
  return {};
}

template <class T>
Status CudaQwenVisionTower<T>::run(std::span<const VisualInput> images, const Watch& watch,
                                   float* target) {
  const VisionConfig& vision = config_.vision;
  const uint64_t work = layers_.size() + 1;  // of a step: patches and layers
  uint64_t total = 0, done = 0;
  for (const VisualInput& image : images) total += static_cast<uint64_t>(image.shape.steps) * work;
  for (const VisualInput& image : images) {
    const VisionStep step = vision_step(vision, image.shape.height, image.shape.width);
    VKV_TRY(load_angles(step));
    const int64_t pass_steps =
        std::clamp<int64_t>(kCudaVisionPassRows / step.rows(), 1, int64_t{image.shape.steps});
    for (int64_t first = 0; first < image.shape.steps; first += pass_steps) {
      const Pass pass{step, std::min(pass_steps, image.shape.steps - first)};
      VKV_TRY(watch.check());
      VKV_TRY(reserve_buffers(pass));
      VKV_TRY(embed(image.values.data() + first * step.rows() * vision.patch_values(), pass));
      for (size_t layer = 0; layer < layers_.size(); ++layer) {
        VKV_TRY(watch.check());
        VKV_TRY(run_layer(layers_[layer], pass, has_windows(vision, static_cast<int>(layer))));
        watch.report(done + static_cast<uint64_t>(pass.step_count) * (layer + 1), total);
      }
      VKV_TRY(merge(pass, target));
      target += pass.tokens() * config_.text.hidden;
      done += static_cast<uint64_t>(pass.step_count) * work;
      watch.report(done, total);
    }
  }
  return {};
}

template <class T>
Result<std::vector<float>> CudaQwenVisionTower<T>::encode(std::span<const VisualInput> images,
                                                          const Watch& watch) {
  int64_t token_count = 0;
  for (const VisualInput& image : images) token_count += visual_token_count(config_, image.shape);
  std::vector<float> embeddings(static_cast<size_t>(token_count * config_.text.hidden));
  const Status status = run(images, watch, embeddings.data());
  const Status finished = synchronize(context_->stream());
  VKV_TRY(status);
  VKV_TRY(finished);
  return embeddings;
}

template class CudaQwenVisionTower<float>;
template class CudaQwenVisionTower<__nv_bfloat16>;

}  // namespace vkv
