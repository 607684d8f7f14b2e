// overlapped_launch.cuh: kernels that begin while the one before them on the stream still runs.
// SPDX-License-Identifier: Apache-2.0
//
// A decode step is a chain of kernels of a few microseconds; starting one only when the one before
// has ended costs one or two more each. Source: CUDA C++ Programming Guide, "Programmatic Dependent
// Launch". Streams and graphs that capture them both do it.
#pragma once

#include <cuda_runtime.h>

#include <nv/target>

#include "kernels/cuda_handles.h"

namespace vkv {

// First in a kernel that launch_overlapped() starts: the next kernel of the stream may begin. All
// threads call both functions, or end.
inline __device__ void let_next_begin() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (asm volatile("griddepcontrol.launch_dependents;" :::);))
}

// Before the first access to anything that another kernel writes, or reads before this one writes
// it: returns when all work before this kernel is done. What no kernel writes, like weights, may be
// read earlier.
inline __device__ void wait_for_previous() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (asm volatile("griddepcontrol.wait;" ::: "memory");))
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

// Devices before sm_90 launch it as any other kernel.
template <class... Parameters, class... Arguments>
Status launch_overlapped(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
                         cudaStream_t stream, const Arguments&... arguments) {
  int device = 0, major = 0;
  VKV_TRY(cuda_status(cudaGetDevice(&device), "cudaGetDevice"));
  VKV_TRY(cuda_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                      "cudaDeviceGetAttribute"));
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = major >= 9 && stream != nullptr ? 1 : 0;
  return cuda_status(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name);
}

}  // namespace vkv
