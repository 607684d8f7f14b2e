// cuda_context.cpp: the GPU of one model: its device, its stream, its matrix products.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/cuda_context.h"

#include <string>

namespace vkv {
namespace {

constexpr int kComputeMajorMin = 8;  // bf16 matrix units; also what CMAKE_CUDA_ARCHITECTURES has

Status check_device(int device_index) {
  int device_count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&device_count);
  const Status status = cuda_status(counted, "cudaGetDeviceCount");
  if (counted == cudaErrorInsufficientDriver || counted == cudaErrorStubLibrary ||
      counted == cudaErrorNoDevice)
    return {Code::kUnsupported, "no GPU: " + status.message() + "; run the model on the CPU"};
  VKV_TRY(status);
  if (device_index < 0 || device_index >= device_count)
    return {Code::kUnsupported, "there is no GPU " + std::to_string(device_index) + "; CUDA sees " +
                                    std::to_string(device_count)};
  int major = 0;
  VKV_TRY(
      cuda_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_index),
                  "cudaDeviceGetAttribute"));
  if (major < kComputeMajorMin)
    return {Code::kUnsupported, "GPU " + std::to_string(device_index) + " has compute capability " +
                                    std::to_string(major) + ".x; the model needs " +
                                    std::to_string(kComputeMajorMin) + ".0 (Ampere) or newer"};
  return {};
}

}  // namespace

Result<std::unique_ptr<CudaContext>> CudaContext::make(int device_index) {
  VKV_TRY(check_device(device_index));
  VKV_TRY(cuda_status(cudaSetDevice(device_index), "cudaSetDevice"));
  // A step of the model goes before what a cache does beside it.
  VKV_TRY_ASSIGN(stream, make_stream(StreamPriority::kUrgent));
  VKV_TRY_ASSIGN(products, CublasProducts::make(stream.get()));
  return std::unique_ptr<CudaContext>(
      new CudaContext(device_index, std::move(stream), std::move(products)));
}

}  // namespace vkv
