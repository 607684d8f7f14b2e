// gpu_arrays.h: vectors to memory that the GPU sees, and back, for the tests of kernels/.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda_handles.h"

namespace vkv {

inline bool has_gpu() {
  int count = 0;
  const bool found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  (void)cudaGetLastError();
  return found;
}

template <class T>
CudaArray<T> to_gpu(const std::vector<T>& values, CudaMemory memory = CudaMemory::kDevice) {
  Result<CudaArray<T>> array = CudaArray<T>::make(values.size(), memory);
  EXPECT_TRUE(array.ok()) << array.status().message();
  const cudaError_t error =
      cudaMemcpy(array.value().data(), values.data(), values.size() * sizeof(T), cudaMemcpyDefault);
  EXPECT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
  // From pageable memory it may return before the bytes are there, and streams do not wait for it.
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  return std::move(array.value());
}

// Waits for nothing but itself: streams that write the array must be done.
template <class T>
std::vector<T> from_gpu(const CudaArray<T>& array) {
  std::vector<T> values(array.size());
  const cudaError_t error =
      cudaMemcpy(values.data(), array.data(), values.size() * sizeof(T), cudaMemcpyDefault);
  EXPECT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
  return values;
}

}  // namespace vkv
