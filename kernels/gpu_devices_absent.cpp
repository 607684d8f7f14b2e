// gpu_devices_absent.cpp: stands in for gpu_devices.cpp in builds without CUDA (VKV_CUDA=OFF).
// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_devices.h"

namespace vkv {

Result<std::vector<GpuDevice>> list_gpu_devices() {
  return Status(Code::kUnsupported, "built without CUDA (VKV_CUDA=OFF)");
}

int gpu_numa_node(int) { return kUnknownNode; }

}  // namespace vkv
