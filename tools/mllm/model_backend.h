// model_backend.h: what computes a model: the CPU, or a GPU through CUDA.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tools/mllm/checkpoint.h"
#include "tools/mllm/forward_request.h"
#include "tools/mllm/model.h"
#include "tools/mllm/watch.h"
#include "vkv/cache.h"

namespace vkv {

// See the functions of these names in Model. One call at a time.
class ModelBackend {
 public:
  virtual ~ModelBackend() = default;

  virtual ElementType element() const = 0;
  virtual void* cuda_stream() const = 0;
  virtual uint64_t weight_bytes() const = 0;

  // Patches that go through the vision tower at once, unless one step has more.
  virtual int64_t vision_pass_rows() const = 0;

  // At least one image, and only if the checkpoint has vision.
  virtual Result<std::vector<float>> encode_images(std::span<const VisualInput> images,
                                                   const Watch& watch) = 0;
  virtual Result<std::vector<float>> forward(Cache& cache, ForwardBatch batch,
                                             const Watch& watch) = 0;  // of a valid batch
};

// The checkpoint is read during the call only. Errors: those of Weights::floats, naming the tensor.
Result<std::unique_ptr<ModelBackend>> load_cpu_model(const Checkpoint& checkpoint,
                                                     const ModelOptions& options);

// Errors: also kUnsupported in a build without CUDA and where there is no GPU of that index or too
// old a one, kOutOfMemory naming the need, kCuda.
Result<std::unique_ptr<ModelBackend>> load_cuda_model(const Checkpoint& checkpoint,
                                                      const ModelOptions& options);

}  // namespace vkv
