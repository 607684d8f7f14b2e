// gpu_backend.h: the engine of a cache on a GPU, and its memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/base/backend.h"
#include "runtime/base/memory_source.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

struct GpuEngineOptions {
  KvShape shape;
  int device_index = 0;    // CUDA's, among the visible devices
  void* stream = nullptr;  // a cudaStream_t of that device; nullptr: one of its own
  // Computes attention beside the GPU (Backend::attend_shared()); nullptr: nobody does.
  std::unique_ptr<Backend> host;
  std::unique_ptr<MemorySource> host_pages;  // what pinned_memory pins
};

struct GpuEngine {
  // All pointers in items are the device's or pinned memory's, but `rows`, `blocks` and results for
  // the host. Work is queued on the stream; calls wait where the host needs what was computed, and
  // in finish() where the stream is the engine's own. Deterministic; bits do not depend on which
  // memory an item's bytes lie in. Not thread-safe. An error that the device does not recover from
  // is reported in full once; later calls only say that it happened.
  std::unique_ptr<Backend> backend;
  uint64_t work_bytes = 0;  // of device memory that the engine has, or will take, for itself
  uint64_t host_bytes = 0;  // the same of host memory, for the CPU's part of attention
  std::unique_ptr<MemorySource> device_memory;
  std::unique_ptr<MemorySource> pinned_memory;  // of the host; kernels read it where it is
};

// Errors: kUnsupported in a build without CUDA, and for a head_dim without kernels;
// kInvalidArgument for a device that is not there, naming how many are; kOutOfMemory, kCuda.
//
// Attention of many queries goes through cuDNN where it is there and has a kernel for the shape,
// else through the kernel of decoding, which is far slower; name() says which and why. The
// environment asks for the latter with VKV_PREFILL=own.
Result<GpuEngine> make_gpu_engine(GpuEngineOptions options);

}  // namespace vkv
