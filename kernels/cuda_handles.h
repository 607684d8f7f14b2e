// cuda_handles.h: CUDA errors as Status; streams, events and memory that free themselves.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "vkv/status.h"

namespace vkv {

// ok, or kCuda with the name of the call and CUDA's words. Clears the error, or the next call of
// somebody else would report it; one that the device cannot recover from is reported again by every
// later call.
inline Status cuda_status(cudaError_t error, std::string_view call) {
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  return {Code::kCuda, std::string(call) + ": " + cudaGetErrorName(error) + " (" +
                           cudaGetErrorString(error) + ")"};
}

// Of the kernel just launched: a wrong configuration. What happens while it runs shows later.
inline Status launch_status(std::string_view kernel) {
  return cuda_status(cudaGetLastError(), kernel);
}

template <class Handle, cudaError_t (*kDestroy)(Handle)>
class CudaHandle {
 public:
  CudaHandle() = default;
  explicit CudaHandle(Handle handle) : handle_(handle) {}
  CudaHandle(CudaHandle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  CudaHandle& operator=(CudaHandle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~CudaHandle() {
    if (handle_ != nullptr) (void)kDestroy(handle_);  // nothing to do about a failure here
  }

  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

using CudaStream = CudaHandle<cudaStream_t, cudaStreamDestroy>;
using CudaEvent = CudaHandle<cudaEvent_t, cudaEventDestroy>;
using CudaGraph = CudaHandle<cudaGraph_t, cudaGraphDestroy>;
using CudaGraphExec = CudaHandle<cudaGraphExec_t, cudaGraphExecDestroy>;

// kUrgent: thread blocks that wait for a multiprocessor go before those of kUsual streams.
enum class StreamPriority { kUsual, kUrgent };

// Does not synchronise with the legacy default stream.
inline Result<CudaStream> make_stream(StreamPriority priority = StreamPriority::kUsual) {
  int least = 0, greatest = 0;
  VKV_TRY(cuda_status(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                      "cudaDeviceGetStreamPriorityRange"));
  cudaStream_t stream = nullptr;
  VKV_TRY(cuda_status(
      cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                   priority == StreamPriority::kUrgent ? greatest : least),
      "cudaStreamCreateWithPriority"));
  return CudaStream(stream);
}

enum class EventKind { kOrder, kTime };

// kOrder orders work and has no timestamp, which is cheaper.
inline Result<CudaEvent> make_event(EventKind kind = EventKind::kOrder) {
  cudaEvent_t event = nullptr;
  const unsigned flags = kind == EventKind::kOrder ? cudaEventDisableTiming : cudaEventDefault;
  VKV_TRY(cuda_status(cudaEventCreateWithFlags(&event, flags), "cudaEventCreateWithFlags"));
  return CudaEvent(event);
}

// Work queued on `later` from now on starts after the work queued on `earlier` so far.
inline Status order(cudaStream_t earlier, const CudaEvent& via, cudaStream_t later) {
  VKV_TRY(cuda_status(cudaEventRecord(via.get(), earlier), "cudaEventRecord"));
  return cuda_status(cudaStreamWaitEvent(later, via.get(), 0), "cudaStreamWaitEvent");
}

// Where memory lies: in the device, or in host memory that stays in place and that kernels may read
// and write at the same address.
enum class CudaMemory { kDevice, kPinned };

// `T`s, not initialised. Moves; frees itself.
template <class T>
class CudaArray {
 public:
  CudaArray() = default;
  CudaArray(CudaArray&& other) noexcept
      : memory_(other.memory_), values_(std::exchange(other.values_, {})) {}
  CudaArray& operator=(CudaArray&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(values_, other.values_);
    return *this;
  }
  ~CudaArray() {
    if (values_.empty()) return;
    if (memory_ == CudaMemory::kDevice)
      (void)cudaFree(values_.data());
    else
      (void)cudaFreeHost(values_.data());
  }

  // On the current device. Errors: kOutOfMemory naming the need, kCuda.
  static Result<CudaArray> make(size_t count, CudaMemory memory = CudaMemory::kDevice) {
    CudaArray array;
    if (count == 0) return Result<CudaArray>(std::move(array));
    void* values = nullptr;
    const bool on_device = memory == CudaMemory::kDevice;
    const cudaError_t error = on_device
                                  ? cudaMalloc(&values, count * sizeof(T))
                                  : cudaHostAlloc(&values, count * sizeof(T),
                                                  cudaHostAllocPortable | cudaHostAllocMapped);
    const Status status = cuda_status(error, on_device ? "cudaMalloc" : "cudaHostAlloc");
    if (error == cudaErrorMemoryAllocation)
      return Status(Code::kOutOfMemory, status.message() + " of " +
                                            std::to_string(count * sizeof(T)) + " bytes of " +
                                            (on_device ? "GPU memory" : "pinned memory"));
    VKV_TRY(status);
    array.memory_ = memory;
    array.values_ = {static_cast<T*>(values), count};
    return Result<CudaArray>(std::move(array));
  }

  T* data() const { return values_.data(); }
  size_t size() const { return values_.size(); }
  std::span<T> span() const { return values_; }

 private:
  CudaMemory memory_ = CudaMemory::kDevice;
  std::span<T> values_;
};

// Queued on `stream`; any combination of device and host memory. Pageable host memory waits.
template <class T>
Status copy_async(T* target, const T* source, size_t count, cudaStream_t stream) {
  return cuda_status(cudaMemcpyAsync(target, source, count * sizeof(T), cudaMemcpyDefault, stream),
                     "cudaMemcpyAsync");
}

// Waits for all work queued on `stream`. Errors: kCuda, also for what kernels did wrong.
inline Status synchronize(cudaStream_t stream) {
  return cuda_status(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

}  // namespace vkv
