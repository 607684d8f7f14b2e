// gpu_backend_absent.cpp: stands in for gpu_backend.cpp in builds without CUDA (VKV_CUDA=OFF).
// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_backend.h"

namespace vkv {

Result<GpuEngine> make_gpu_engine(GpuEngineOptions) {
  return Status(Code::kUnsupported, "device cuda: built without CUDA (VKV_CUDA=OFF)");
}

}  // namespace vkv
