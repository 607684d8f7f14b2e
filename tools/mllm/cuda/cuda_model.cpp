// cuda_model.cpp: the model on a GPU.
// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "tools/mllm/cuda/cuda_context.h"
#include "tools/mllm/cuda/cuda_decoder.h"
#include "tools/mllm/cuda/cuda_vision_encoder.h"
#include "tools/mllm/cuda/cuda_weights.h"
#include "tools/mllm/model_backend.h"

namespace vkv {
namespace {

// T as in CudaDecoder.
template <class T>
class CudaModel : public ModelBackend {
 public:
  explicit CudaModel(std::unique_ptr<CudaContext> context) : context_(std::move(context)) {}

  Status load(const Checkpoint& checkpoint) {
    const ModelConfig& config = checkpoint.config;
    CudaWeights weights(context_->stream());
    if (config.has_vision()) {
      VKV_TRY_ASSIGN(vision,
                     load_cuda_vision<T>(config, *checkpoint.weights, context_.get(), weights));
      vision_ = std::move(vision);
    }
    VKV_TRY_ASSIGN(decoder,
                   CudaDecoder<T>::load(config, *checkpoint.weights, context_.get(), weights));
    decoder_.emplace(std::move(decoder));
    weight_bytes_ = weights.bytes();
    return synchronize(context_->stream());
  }

  ElementType element() const override { return ElementType::kF32; }  // whatever T is
  void* cuda_stream() const override { return context_->stream(); }
  uint64_t weight_bytes() const override { return weight_bytes_; }

  int64_t vision_pass_rows() const override { return kCudaVisionPassRows; }

  Result<std::vector<float>> encode_images(std::span<const VisualInput> images,
                                           const Watch& watch) override {
    VKV_TRY(context_->use());
    return vision_->encode(images, watch);
  }

  Result<std::vector<float>> forward(Cache& cache, ForwardBatch batch,
                                     const Watch& watch) override {
    VKV_TRY(context_->use());
    VKV_TRY_ASSIGN(logits, decoder_->forward(cache, batch, watch));
    return std::vector<float>(logits.begin(), logits.end());
  }

 private:
  std::unique_ptr<CudaContext> context_;
  std::unique_ptr<CudaVisionEncoder> vision_;  // null in a model of text alone
  std::optional<CudaDecoder<T>> decoder_;
  uint64_t weight_bytes_ = 0;
};

template <class T>
Result<std::unique_ptr<ModelBackend>> load_model(const Checkpoint& checkpoint,
                                                 std::unique_ptr<CudaContext> context) {
  auto model = std::make_unique<CudaModel<T>>(std::move(context));
  VKV_TRY(model->load(checkpoint));
  return std::unique_ptr<ModelBackend>(std::move(model));
}

}  // namespace

Result<std::unique_ptr<ModelBackend>> load_cuda_model(const Checkpoint& checkpoint,
                                                      const ModelOptions& options) {
  VKV_TRY_ASSIGN(context, CudaContext::make(options.device_index));
  if (options.cuda_in_fp32) return load_model<float>(checkpoint, std::move(context));
  return load_model<__nv_bfloat16>(checkpoint, std::move(context));
}

}  // namespace vkv
