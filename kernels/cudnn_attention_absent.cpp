// cudnn_attention_absent.cpp: a build without cuDNN's headers.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cudnn_attention.h"

namespace vkv {

struct CudnnAttention::State {};

CudnnAttention::CudnnAttention(std::unique_ptr<State> state) : state_(std::move(state)) {}
CudnnAttention::CudnnAttention(CudnnAttention&&) noexcept = default;
CudnnAttention& CudnnAttention::operator=(CudnnAttention&&) noexcept = default;
CudnnAttention::~CudnnAttention() = default;

Result<CudnnAttention> CudnnAttention::make(const CudnnAttentionShape&) {
  return Status(Code::kUnsupported, "built without cuDNN");
}

const std::string& CudnnAttention::version() const {
  static const std::string none;
  return none;
}

Status CudnnAttention::run(const CudnnAttentionCall&, cudaStream_t) {
  return {Code::kUnsupported, "built without cuDNN"};
}

}  // namespace vkv
