// device_index.h: whether CUDA has the device that was asked for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "kernels/cuda_handles.h"
#include "vkv/status.h"

namespace vkv {

// Errors: kUnsupported without a GPU or a driver; kInvalidArgument naming how many there are.
inline Status check_device_index(int index) {
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted == cudaErrorNoDevice || counted == cudaErrorInsufficientDriver ||
      counted == cudaErrorStubLibrary)
    return {Code::kUnsupported,
            "device cuda: " + cuda_status(counted, "cudaGetDeviceCount").message()};
  VKV_TRY(cuda_status(counted, "cudaGetDeviceCount"));
  if (index < 0 || index >= count)
    return {Code::kInvalidArgument, "device_index is " + std::to_string(index) + "; CUDA sees " +
                                        std::to_string(count) + " device" +
                                        (count == 1 ? "" : "s")};
  return {};
}

}  // namespace vkv
