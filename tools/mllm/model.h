// model.h: a checkpoint that runs: pixels -> visual tokens, tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
//
// The model has no KV of its own: K and V of every layer go to a vkv::Cache, and attention comes
// from it. On the CPU weights and activations are fp32. On a GPU the residual stream is, and what
// goes through the matrix units is bf16, with fp32 sums.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/mllm/forward_request.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/watch.h"
#include "vkv/cache.h"

namespace vkv {

struct ModelOptions {
  Device device = Device::kCpu;  // of the model and of the caches that it is given
  int device_index = 0;          // CUDA's, among the visible ones
  bool cuda_in_fp32 = false;     // weights and products too: slow, for comparisons
  int threads = 0;  // CPU: of vision tower and linear layers; 0: all that the process may use
};

// One call at a time; a call may use all threads.
class Model {
 public:
  // The folder of a Hugging Face checkpoint of a family that family.h lists, or a GGUF file of a
  // decoder; see checkpoint.h. Errors: kNotFound, kDataLoss, kUnsupported,
  // kInvalidArgument, naming the file, the tensor and what was expected.
  static Result<std::unique_ptr<Model>> load(const std::string& path, const ModelOptions& options);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const { return config_; }
  uint64_t weight_bytes() const;  // held in memory of the device

  // What the options of its caches have: shape, element type, and on a GPU the stream (a
  // cudaStream_t; null on the CPU), which orders the model's work and the cache's. K, V, queries
  // and attention are in device memory then. The stream lives as long as the model.
  KvShape kv_shape() const { return config().kv_shape(); }
  ElementType element() const;
  void* cuda_stream() const;

  // Returns [tokens, text.hidden], image after image, as many tokens as visual_token_count has of
  // each. Errors: kInvalidArgument for a wrong number of values, or for any image if the model has
  // no vision (config().has_vision()); kCancelled.
  Result<std::vector<float>> encode_images(std::span<const VisualInput> images, const Watch& watch);

  // How many steps of a picture or video of this shape go through the vision tower at once, or how
  // many pictures where they have one size; at least 1. A video that is encoded in pieces of as
  // many steps, or of a multiple, gives the bits that it gives as a whole. Of a model with vision.
  int64_t steps_per_pass(const VisualShape& shape) const;

  // Runs the decoder over the tokens and leaves their K and V in the cache, whose options have
  // kv_shape() and element(). Returns [logit_count, vocabulary].
  // Errors: kInvalidArgument, kCancelled, and those of the cache. After an error in mid-flight the
  // sequence's layers are out of step: erase it.
  Result<std::vector<float>> forward(Cache& cache, const ForwardRequest& request,
                                     const Watch& watch);

  // The same for several sequences at once (ForwardBatch): the weights are read once for all, which
  // is most of a step's time. Returns [logit_count of all, vocabulary], request after request.
  // After an error in mid-flight the layers of all of them are out of step.
  Result<std::vector<float>> forward(Cache& cache, ForwardBatch batch, const Watch& watch);

 private:
  Model(ModelConfig config, std::unique_ptr<class ModelBackend> backend);
  Result<std::vector<float>> encode_tiles(std::span<const VisualInput> images, const Watch& watch);

  ModelConfig config_;
  std::vector<float> newline_;  // [text.hidden], of a model that packs tiles
  std::unique_ptr<class ModelBackend> backend_;
};

}  // namespace vkv
