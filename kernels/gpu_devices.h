// gpu_devices.h: the GPUs that CUDA sees.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/numa_node.h"
#include "vkv/status.h"

namespace vkv {

struct GpuDevice {
  int index = 0;  // CUDA's, among the visible ones
  std::string name;
  int compute_major = 0;  // compute capability 9.0: 9 and 0
  int compute_minor = 0;
  int multiprocessor_count = 0;
  uint64_t memory_bytes = 0;
  uint64_t memory_free_bytes = 0;     // now, of all processes
  std::string pci_bus_id;             // "0000:3b:00.0", lower case
  int host_numa_node = kUnknownNode;  // os_index of the nearest; unknown: the system does not say
};

// Empty where there is a driver and no GPU. Takes time and some memory on each GPU: asking what is
// free makes a CUDA context there, which stays with the process.
// Errors: kUnsupported in a build without CUDA, and where there is no driver or too old a one;
// kCuda with the name of the call.
Result<std::vector<GpuDevice>> list_gpu_devices();

// host_numa_node of one, without a context on any. kUnknownNode also where there is no such device.
int gpu_numa_node(int device_index);

}  // namespace vkv
