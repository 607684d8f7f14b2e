// gpu_devices.cpp: what the CUDA runtime says about each device.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_devices.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <utility>

#include "kernels/cuda_handles.h"

namespace vkv {
namespace {

// Virtual machines often leave the runtime's answer out but have the file, or the reverse.
int host_numa_node(int index, const std::string& pci_bus_id) {
  int node = kUnknownNode;
  if (cudaDeviceGetAttribute(&node, cudaDevAttrHostNumaId, index) != cudaSuccess) {
    (void)cudaGetLastError();
    node = kUnknownNode;
  }
  if (node >= 0) return node;
  std::ifstream file("/sys/bus/pci/devices/" + pci_bus_id + "/numa_node");
  return file >> node ? std::max(node, kUnknownNode) : kUnknownNode;
}

Result<std::string> pci_bus_id(int index) {
  char bus_id[32] = {};
  VKV_TRY(cuda_status(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), index),
                      "cudaDeviceGetPCIBusId of device " + std::to_string(index)));
  std::string text = bus_id;
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return text;
}

Result<GpuDevice> describe(int index) {
  const std::string which = " of device " + std::to_string(index);
  cudaDeviceProp properties{};
  VKV_TRY(
      cuda_status(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties" + which));
  VKV_TRY_ASSIGN(bus_id, pci_bus_id(index));
  VKV_TRY(cuda_status(cudaSetDevice(index), "cudaSetDevice" + which));
  size_t free_bytes = 0, all_bytes = 0;
  VKV_TRY(cuda_status(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo" + which));

  GpuDevice device{.index = index,
                   .name = properties.name,
                   .compute_major = properties.major,
                   .compute_minor = properties.minor,
                   .multiprocessor_count = properties.multiProcessorCount,
                   .memory_bytes = all_bytes,
                   .memory_free_bytes = free_bytes};
  device.pci_bus_id = std::move(bus_id);
  device.host_numa_node = host_numa_node(index, device.pci_bus_id);
  return device;
}

}  // namespace

Result<std::vector<GpuDevice>> list_gpu_devices() {
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted == cudaErrorNoDevice) {
    (void)cudaGetLastError();
    return std::vector<GpuDevice>();
  }
  const Status status = cuda_status(counted, "cudaGetDeviceCount");
  // The runtime says "insufficient" also where there is no driver at all.
  if (counted == cudaErrorInsufficientDriver || counted == cudaErrorStubLibrary) {
    return Status(Code::kUnsupported, status.message() + "; install an NVIDIA driver for CUDA " +
                                          std::to_string(CUDART_VERSION / 1000) +
                                          " or run on the CPU");
  }
  VKV_TRY(status);

  int current = 0;
  VKV_TRY(cuda_status(cudaGetDevice(&current), "cudaGetDevice"));
  std::vector<GpuDevice> devices;
  Status failure;
  for (int index = 0; index < count && failure.ok(); ++index) {
    auto device = describe(index);
    failure = device.status();
    if (device.ok()) devices.push_back(std::move(device.value()));
  }
  const Status restored = cuda_status(cudaSetDevice(current), "cudaSetDevice");
  VKV_TRY(failure);
  VKV_TRY(restored);
  return devices;
}

int gpu_numa_node(int device_index) {
  const Result<std::string> bus_id = pci_bus_id(device_index);
  return bus_id.ok() ? host_numa_node(device_index, bus_id.value()) : kUnknownNode;
}

}  // namespace vkv
