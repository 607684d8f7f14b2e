// gpu_memory.h: memory of one GPU, or pinned for it, for the pools of a cache.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda_handles.h"
#include "runtime/base/memory_source.h"
#include "vkv/status.h"

namespace vkv {

// Makes a device current, and the one before at the end.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    status_ = cuda_status(cudaGetDevice(&before_), "cudaGetDevice");
    if (status_.ok() && before_ != device)
      status_ = cuda_status(cudaSetDevice(device), "cudaSetDevice");
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  ~DeviceScope() { (void)cudaSetDevice(before_); }

  const Status& status() const { return status_; }

 private:
  int before_ = 0;
  Status status_;
};

class GpuMemory final : public MemorySource {
 public:
  explicit GpuMemory(int device) : device_(device) {}

  Result<std::byte*> map(uint64_t byte_count) override {
    const DeviceScope scope(device_);
    VKV_TRY(scope.status());
    VKV_TRY_ASSIGN(array, CudaArray<std::byte>::make(byte_count));
    pieces_.push_back(std::move(array));
    return pieces_.back().data();
  }

  void unmap(std::byte* data, uint64_t) override {
    const DeviceScope scope(device_);
    (void)cudaDeviceSynchronize();  // kernels may still use it
    const auto piece = std::find_if(pieces_.begin(), pieces_.end(),
                                    [&](const auto& array) { return array.data() == data; });
    VKV_CHECK(piece != pieces_.end());
    pieces_.erase(piece);
  }

 private:
  const int device_;
  std::vector<CudaArray<std::byte>> pieces_;
};

// Memory of the host that kernels read at the same address: pages of another source, registered
// with the driver. With huge pages that are there already this takes a fifth of the time of
// cudaHostAlloc, which besides stops the GPU and all who call it meanwhile (measured on an H100:
// 5 ms against 25 for 64 MiB, and launches beside it 10 us against 20 ms).
class PinnedMemory final : public MemorySource {
 public:
  PinnedMemory(int device, std::unique_ptr<MemorySource> pages)
      : device_(device), pages_(std::move(pages)) {}

  Result<std::byte*> map(uint64_t byte_count) override {
    const DeviceScope scope(device_);
    VKV_TRY(scope.status());
    VKV_TRY_ASSIGN(data, pages_->map(byte_count));
    const cudaError_t error =
        cudaHostRegister(data, byte_count, cudaHostRegisterPortable | cudaHostRegisterMapped);
    if (error == cudaSuccess) return data;
    (void)cudaGetLastError();
    pages_->unmap(data, byte_count);
    return Status(Code::kOutOfMemory, "the driver refuses to pin " + std::to_string(byte_count) +
                                          " bytes (" + cudaGetErrorString(error) +
                                          "); lower the DRAM budget");
  }

  void unmap(std::byte* data, uint64_t byte_count) override {
    const DeviceScope scope(device_);
    (void)cudaDeviceSynchronize();  // kernels may still use it
    (void)cudaHostUnregister(data);
    pages_->unmap(data, byte_count);
  }

 private:
  const int device_;
  const std::unique_ptr<MemorySource> pages_;
};

// False for what CUDA does not know.
inline bool is_device_memory(const void* address) {
  cudaPointerAttributes attributes{};
  const bool is_known = cudaPointerGetAttributes(&attributes, address) == cudaSuccess;
  (void)cudaGetLastError();
  return is_known && attributes.type == cudaMemoryTypeDevice;
}

}  // namespace vkv
