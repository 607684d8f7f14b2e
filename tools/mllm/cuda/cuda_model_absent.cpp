// cuda_model_absent.cpp: stands in for tools/mllm/cuda/ in builds without CUDA (VKV_CUDA=OFF).
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/model_backend.h"

namespace vkv {

Result<std::unique_ptr<ModelBackend>> load_cuda_model(const Checkpoint&, const ModelOptions&) {
  return Status(Code::kUnsupported, "built without CUDA (VKV_CUDA=OFF)");
}

}  // namespace vkv
