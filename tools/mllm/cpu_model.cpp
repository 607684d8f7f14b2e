// cpu_model.cpp: the model on the CPU, in fp32.
// SPDX-License-Identifier: Apache-2.0
#include <tbb/task_arena.h>

#include <optional>

#include "cpu/threads.h"
#include "tools/mllm/decoder.h"
#include "tools/mllm/model_backend.h"
#include "tools/mllm/vision_encoder.h"

namespace vkv {
namespace {

class CpuModel : public ModelBackend {
 public:
  explicit CpuModel(int threads) : arena_(worker_threads(threads)) {}

  Status load(const Checkpoint& checkpoint) {
    return arena_.execute([&]() -> Status {
      if (checkpoint.config.has_vision()) {
        VKV_TRY_ASSIGN(vision, load_vision_encoder(checkpoint.config, *checkpoint.weights));
        vision_ = std::move(vision);
      }
      VKV_TRY_ASSIGN(decoder, Decoder::load(checkpoint.config, *checkpoint.weights));
      decoder_.emplace(std::move(decoder));
      return {};
    });
  }

  ElementType element() const override { return ElementType::kF32; }
  void* cuda_stream() const override { return nullptr; }
  uint64_t weight_bytes() const override {
    return (vision_ ? vision_->bytes() : 0) + decoder_->bytes();
  }

  int64_t vision_pass_rows() const override { return kVisionPassRows; }

  Result<std::vector<float>> encode_images(std::span<const VisualInput> images,
                                           const Watch& watch) override {
    return arena_.execute([&] { return vision_->encode(images, watch); });
  }

  Result<std::vector<float>> forward(Cache& cache, ForwardBatch batch,
                                     const Watch& watch) override {
    return arena_.execute([&] { return decoder_->forward(cache, batch, watch); });
  }

 private:
  tbb::task_arena arena_;
  std::unique_ptr<VisionEncoder> vision_;  // null in a model of text alone
  std::optional<Decoder> decoder_;
};

}  // namespace

Result<std::unique_ptr<ModelBackend>> load_cpu_model(const Checkpoint& checkpoint,
                                                     const ModelOptions& options) {
  auto model = std::make_unique<CpuModel>(options.threads);
  VKV_TRY(model->load(checkpoint));
  return std::unique_ptr<ModelBackend>(std::move(model));
}

}  // namespace vkv
