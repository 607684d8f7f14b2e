// model.h: a checkpoint that runs: pixels -> visual tokens, tokens -> logits.
// SPDX-License-Identifier: Apache-2.0
//
// Weights and activations are fp32. The model has no KV of its own: K and V of every layer go to a
// vkv::Cache, and attention comes from it.
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
  int threads = 0;  // of vision tower and linear layers; 0: all that the process may use
};

// One call at a time; a call may use all threads.
class Model {
 public:
  // The folder of a Hugging Face checkpoint (a LLaVA, or a Llama or Qwen2 decoder alone) or a GGUF
  // file of a decoder; see checkpoint.h. Errors: kNotFound, kDataLoss, kUnsupported,
  // kInvalidArgument, naming the file, the tensor and what was expected.
  static Result<std::unique_ptr<Model>> load(const std::string& path, const ModelOptions& options);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const;
  KvShape kv_shape() const { return config().kv_shape(); }
  uint64_t weight_bytes() const;  // held in memory, fp32

  // Each image is [3, image_edge, image_edge], normalised. Returns
  // [image_count * tokens_per_image, text.hidden], image after image.
  // Errors: kInvalidArgument for a wrong number of values, or for any image if the model has no
  // vision (config().has_vision()); kCancelled.
  Result<std::vector<float>> encode_images(std::span<const std::vector<float>> images,
                                           const Watch& watch);

  // Runs the decoder over the tokens and leaves their K and V in the cache, whose options have
  // shape kv_shape() and element kF32. Returns [logit_count, vocabulary].
  // Errors: kInvalidArgument, kCancelled, and those of the cache. After an error in mid-flight the
  // sequence's layers are out of step: erase it.
  Result<std::vector<float>> forward(Cache& cache, const ForwardRequest& request,
                                     const Watch& watch);

 private:
  struct Parts;
  explicit Model(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace vkv
