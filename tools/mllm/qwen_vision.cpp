// qwen_vision.cpp: the vision tower of Qwen2-VL and Qwen2.5-VL: patches -> visual tokens.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/qwen_vision.h"

#include <algorithm>
#include <cmath>

#include "tools/mllm/ops.h"
#include "tools/mllm/row_tasks.h"
#include "tools/mllm/vision_attention.h"
#include "tools/mllm/visual_layout.h"

namespace vkv {
namespace {

int64_t tokens_of(const VisionStep& step) { return static_cast<int64_t>(step.token_order.size()); }

}  // namespace

// Activations of one pass of some steps; rows are step after step, each as VisionStep has it.
struct QwenVisionTower::Buffers {
  RopeTable rope;               // of one step
  std::vector<float> x;         // [rows, hidden], the residual stream
  std::vector<float> normed;    // [rows, hidden]
  std::vector<float> qkv;       // [rows, 3, hidden]
  std::vector<float> attended;  // [rows, hidden]
  std::vector<float> scores;    // see vision_attention
  std::vector<float> wide;      // [rows, patch_values]; [chunk, 2, intermediate]; [rows, hidden]
};

Result<QwenVisionTower::Norm> QwenVisionTower::load_norm(const VisionConfig& vision,
                                                         const WeightLoader& loader,
                                                         const std::string& name) {
  VKV_TRY_ASSIGN(weight, loader.floats(name + ".weight", {vision.hidden}));
  Norm norm{std::move(weight), {}};
  if (vision.kind == VisionKind::kQwen2) {
    VKV_TRY_ASSIGN(bias, loader.floats(name + ".bias", {vision.hidden}));
    norm.bias = std::move(bias);
  }
  return norm;
}

Result<QwenVisionTower::Layer> QwenVisionTower::load_layer(const VisionConfig& vision,
                                                           const WeightLoader& loader, int index) {
  const QwenVisionLayerTensors tensors = qwen_vision_layer_tensors(vision, index);
  VKV_TRY_ASSIGN(norm1, load_norm(vision, loader, tensors.norm1));
  VKV_TRY_ASSIGN(norm2, load_norm(vision, loader, tensors.norm2));
  // The softmax scale goes into q: one pass over the scores less.
  VKV_TRY_ASSIGN(values, loader.values(tensors.qkv));
  const float scale = 1.0f / std::sqrt(static_cast<float>(vision.hidden / vision.heads));
  const int64_t hidden = vision.hidden;
  for (int64_t i = 0; i < hidden * hidden; ++i) values.weight[static_cast<size_t>(i)] *= scale;
  for (int64_t i = 0; i < hidden; ++i) values.bias[static_cast<size_t>(i)] *= scale;
  VKV_TRY_ASSIGN(qkv, Linear::make(3 * vision.hidden, vision.hidden, values.weight,
                                   std::move(values.bias), Activation::kNone));
  VKV_TRY_ASSIGN(out, loader.linear(tensors.out));
  std::optional<Linear> gate;
  if (!tensors.gate.name.empty()) {
    VKV_TRY_ASSIGN(loaded, loader.linear(tensors.gate));
    gate.emplace(std::move(loaded));
  }
  VKV_TRY_ASSIGN(up, loader.linear(tensors.up));
  VKV_TRY_ASSIGN(down, loader.linear(tensors.down));
  return Layer{std::move(norm1), std::move(norm2), std::move(qkv), std::move(out),
               std::move(gate),  std::move(up),    std::move(down)};
}

Result<QwenVisionTower> QwenVisionTower::load(const ModelConfig& config, const Weights& weights) {
  const VisionConfig& vision = config.vision;
  VKV_TRY_ASSIGN(tensors, qwen_vision_tensors(config, weights));
  const WeightLoader& loader = tensors.loader;
  VKV_TRY_ASSIGN(kernel, qwen_patch_values(vision, loader));
  VKV_TRY_ASSIGN(patch, Linear::make(vision.hidden, vision.patch_values(), kernel.weight, {},
                                     Activation::kNone));
  VKV_TRY_ASSIGN(merge_in, loader.linear(tensors.merge_in));
  VKV_TRY_ASSIGN(merge_out, loader.linear(tensors.merge_out));
  QwenVisionTower tower(config, std::move(patch), std::move(merge_in), std::move(merge_out));
  VKV_TRY_ASSIGN(merge_norm, load_norm(vision, loader, QwenVisionTensors::kMergeNorm));
  tower.merge_norm_ = std::move(merge_norm);
  for (int index = 0; index < vision.layers; ++index) {
    VKV_TRY_ASSIGN(layer, load_layer(vision, loader, index));
    for (const Linear* linear : {&layer.qkv, &layer.out, &layer.up, &layer.down})
      tower.bytes_ += linear->bytes();
    if (layer.gate) tower.bytes_ += layer.gate->bytes();
    tower.layers_.push_back(std::move(layer));
  }
  tower.bytes_ += tower.patch_.bytes() + tower.merge_in_.bytes() + tower.merge_out_.bytes();
  return tower;
}

void QwenVisionTower::normalise(const Norm& norm, const float* x, int64_t rows, float* y) const {
  const float epsilon = config_.vision.norm_epsilon;
  if (norm.bias.empty()) return rms_norm(x, rows, norm.weight, epsilon, y);
  layer_norm(x, rows, norm.weight, norm.bias, epsilon, y);
}

// Patches, token by token as the step has them.
Status QwenVisionTower::embed(const float* patches, const VisionStep& step, int64_t step_count,
                              Buffers& buffers) {
  const int64_t token_values = step.rows() / tokens_of(step) * config_.vision.patch_values();
  const int64_t tokens = tokens_of(step);
  buffers.wide.resize(static_cast<size_t>(step_count * tokens * token_values));
  for_rows(step_count * tokens, token_values, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t source =
          i / tokens * tokens + step.token_order[static_cast<size_t>(i % tokens)];
      std::copy_n(patches + source * token_values, token_values,
                  buffers.wide.data() + i * token_values);
    }
  });
  return patch_.run(buffers.wide.data(), step_count * step.rows(), buffers.x.data());
}

Status QwenVisionTower::attend(const VisionStep& step, bool windowed, int64_t step_count,
                               Buffers& buffers) const {
  const int64_t hidden = config_.vision.hidden, heads = config_.vision.heads;
  const auto run = [&](int64_t row, int64_t parts, int64_t positions) {
    const float* const qkv = buffers.qkv.data() + row * 3 * hidden;
    return vision_attention({.q = qkv,
                             .k = qkv + hidden,
                             .v = qkv + 2 * hidden,
                             .stride = 3 * hidden,
                             .out = buffers.attended.data() + row * hidden,
                             .parts = parts,
                             .positions = positions,
                             .heads = heads,
                             .head_dim = hidden / heads},
                            buffers.scores);
  };
  if (!windowed) return run(0, step_count, step.rows());
  for (int64_t index = 0; index < step_count; ++index)
    for (const VisionStep::Run& windows : step.windows)
      VKV_TRY(run(index * step.rows() + windows.first_row, windows.parts, windows.positions));
  return {};
}

Status QwenVisionTower::run_layer(Layer& layer, const VisionStep& step, bool windowed,
                                  int64_t step_count, Buffers& buffers) {
  const VisionConfig& vision = config_.vision;
  const int64_t rows = step_count * step.rows(), hidden = vision.hidden;
  float* const x = buffers.x.data();
  float* const normed = buffers.normed.data();
  float* const qkv = buffers.qkv.data();
  normalise(layer.norm1, x, rows, normed);
  VKV_TRY(layer.qkv.run(normed, rows, qkv));
  // q and k as one row of twice the heads.
  for (int64_t index = 0; index < step_count; ++index)
    buffers.rope.apply(qkv + index * step.rows() * 3 * hidden, 2 * vision.heads, 3 * hidden);
  VKV_TRY(attend(step, windowed, step_count, buffers));
  VKV_TRY(layer.out.run_add(buffers.attended.data(), rows, x));

  normalise(layer.norm2, x, rows, normed);
  for (int64_t first = 0; first < rows; first += kVisionPassRows) {
    const int64_t count = std::min(kVisionPassRows, rows - first);
    const int64_t values = count * vision.intermediate;
    buffers.wide.resize(std::max(buffers.wide.size(), static_cast<size_t>(2 * values)));
    float* const up = buffers.wide.data();
    VKV_TRY(layer.up.run(normed + first * hidden, count, up));
    if (layer.gate) {
      VKV_TRY(layer.gate->run(normed + first * hidden, count, up + values));
      multiply(up, up + values, values);
    }
    VKV_TRY(layer.down.run_add(up, count, x + first * hidden));
  }
  return {};
}

// The patches of each token together, through the merger, and back to the order of the picture.
Status QwenVisionTower::merge(const VisionStep& step, int64_t step_count, Buffers& buffers,
                              float* target) {
  const int64_t tokens = tokens_of(step), hidden = config_.text.hidden;
  normalise(merge_norm_, buffers.x.data(), step_count * step.rows(), buffers.normed.data());
  VKV_TRY(merge_in_.run(buffers.normed.data(), step_count * tokens, buffers.attended.data()));
  buffers.wide.resize(
      std::max(buffers.wide.size(), static_cast<size_t>(step_count * tokens * hidden)));
  VKV_TRY(merge_out_.run(buffers.attended.data(), step_count * tokens, buffers.wide.data()));
  for (int64_t i = 0; i < step_count * tokens; ++i) {
    const int64_t place = i / tokens * tokens + step.token_order[static_cast<size_t>(i % tokens)];
    std::copy_n(buffers.wide.data() + i * hidden, hidden, target + place * hidden);
  }
  return {};
}

Result<std::vector<float>> QwenVisionTower::encode(std::span<const VisualInput> images,
                                                   const Watch& watch) {
  const VisionConfig& vision = config_.vision;
  const uint64_t work = layers_.size() + 1;  // of a step: patches and layers
  uint64_t total = 0, done = 0;
  int64_t token_count = 0;
  for (const VisualInput& image : images) {
    total += static_cast<uint64_t>(image.shape.steps) * work;
    token_count += visual_token_count(config_, image.shape);
  }
  std::vector<float> embeddings(static_cast<size_t>(token_count * config_.text.hidden));
  float* target = embeddings.data();
  for (const VisualInput& image : images) {
    const VisionStep step = vision_step(vision, image.shape.height, image.shape.width);
    const RopeChannels channels =
        image_rope_channels(vision.hidden / vision.heads, kQwenVisionTheta);
    Buffers buffers{.rope = RopeTable(step.positions, channels)};
    const int64_t pass_steps =
        std::clamp<int64_t>(kVisionPassRows / step.rows(), 1, int64_t{image.shape.steps});
    const auto values = static_cast<size_t>(pass_steps * step.rows() * vision.hidden);
    for (auto* rows : {&buffers.x, &buffers.normed, &buffers.attended}) rows->resize(values);
    buffers.qkv.resize(3 * values);
    for (int64_t first = 0; first < image.shape.steps; first += pass_steps) {
      const int64_t count = std::min(pass_steps, image.shape.steps - first);
      const float* const patches =
          image.values.data() + first * step.rows() * vision.patch_values();
      VKV_TRY(watch.check());
      VKV_TRY(embed(patches, step, count, buffers));
      for (size_t layer = 0; layer < layers_.size(); ++layer) {
        VKV_TRY(watch.check());
        VKV_TRY(run_layer(layers_[layer], step, has_windows(vision, static_cast<int>(layer)), count,
                          buffers));
        watch.report(done + static_cast<uint64_t>(count) * (layer + 1), total);
      }
      VKV_TRY(merge(step, count, buffers, target));
      target += count * tokens_of(step) * config_.text.hidden;
      done += static_cast<uint64_t>(count) * work;
      watch.report(done, total);
    }
  }
  return embeddings;
}

}  // namespace vkv
