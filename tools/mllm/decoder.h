// decoder.h: the language model (Qwen2 or Llama) on top of vkv::Cache: tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "tools/mllm/forward_request.h"
#include "tools/mllm/linear.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/watch.h"
#include "tools/mllm/weights.h"
#include "vkv/cache.h"

namespace vkv {

// Not thread-safe; runs on the TBB arena of the caller.
class Decoder {
 public:
  // Errors: those of Weights::floats, naming the tensor.
  static Result<Decoder> load(const ModelConfig& config, const Weights& weights);

  // As Model::forward, of a valid batch. Progress counts tokens x layers.
  //
  // Layer by layer over all tokens of the request, so that K and V of a window are 16-bit in one
  // layer at a time; inside a layer, what is wide (the MLP) goes by row chunks.
  Result<std::vector<float>> forward(Cache& cache, ForwardBatch batch, const Watch& watch);

  uint64_t bytes() const { return bytes_; }

 private:
  struct Layer {
    std::vector<float> attention_norm, mlp_norm;  // [hidden]
    Linear q, k, v, o, gate, up, down;
  };
  struct Buffers;

  Decoder(const ModelConfig& config, Linear head)
      : config_(config),
        rope_(
            rope_channels(config.text.head_dim, config.text.rope_theta, config.text.rope_section)),
        head_(std::move(head)) {}

  static Result<Layer> load_layer(const TextConfig& text, const class WeightLoader& loader,
                                  int index);
  void embed(ForwardBatch batch, float* x) const;
  Status project_qkv(Layer& layer, Buffers& buffers, int64_t token_count, const Watch& watch);
  Status attend(Cache& cache, int layer, ForwardBatch batch, int64_t first, Buffers& buffers) const;
  Status finish_layer(Layer& layer, Buffers& buffers, int64_t first, int64_t token_count,
                      const Watch& watch);
  Result<std::vector<float>> logits(const float* x, int64_t row_count);

  ModelConfig config_;
  RopeChannels rope_;
  Linear head_;
  std::vector<float> embedding_;  // [vocabulary, hidden]
  std::vector<float> final_norm_;
  std::vector<Layer> layers_;
  uint64_t bytes_ = 0;
};

}  // namespace vkv
