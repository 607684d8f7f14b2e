// cuda_context.h: the GPU of one model: its device, its stream, its matrix products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>

#include "kernels/cuda_handles.h"
#include "tools/mllm/cuda/cublas_products.h"

namespace vkv {

// Not thread-safe.
class CudaContext {
 public:
  // Errors: kUnsupported if there is no GPU of that index or it is too old, kOutOfMemory, kCuda.
  static Result<std::unique_ptr<CudaContext>> make(int device_index);

  // Makes the device the calling thread's: before anything else, in every call from outside.
  Status use() const { return cuda_status(cudaSetDevice(device_index_), "cudaSetDevice"); }

  cudaStream_t stream() const { return stream_.get(); }
  CublasProducts& products() { return products_; }

 private:
  CudaContext(int device_index, CudaStream stream, CublasProducts products)
      : device_index_(device_index), stream_(std::move(stream)), products_(std::move(products)) {}

  int device_index_;
  CudaStream stream_;
  CublasProducts products_;
};

// Grows `array` to at least `count` values, which are lost then. What it had goes first: both would
// not always fit. Errors: kOutOfMemory naming the need, kCuda.
template <class T>
Status reserve(CudaArray<T>& array, int64_t count, CudaMemory memory = CudaMemory::kDevice) {
  if (static_cast<int64_t>(array.size()) >= count) return {};
  array = CudaArray<T>();
  VKV_TRY_ASSIGN(grown, CudaArray<T>::make(static_cast<size_t>(count), memory));
  array = std::move(grown);
  return {};
}

}  // namespace vkv
