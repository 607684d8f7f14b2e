// Every GPU that is listed has a name, memory and a place; where there is none, that is said.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/gpu_devices.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdio>

namespace vkv {
namespace {

TEST(gpu_devices, each_one_is_described) {
  const auto devices = list_gpu_devices();
  if (!devices.ok()) {
    ASSERT_EQ(devices.status().code(), Code::kUnsupported) << devices.status().message();
    GTEST_SKIP() << devices.status().message();
  }
  if (devices.value().empty()) GTEST_SKIP() << "no GPU";
  for (size_t i = 0; i < devices.value().size(); ++i) {
    const GpuDevice& device = devices.value()[i];
    std::printf("%d: %s, sm_%d%d, %d multiprocessors, %.1f of %.1f GiB free, %s, node %d\n",
                device.index, device.name.c_str(), device.compute_major, device.compute_minor,
                device.multiprocessor_count,
                static_cast<double>(device.memory_free_bytes) / (1 << 30),
                static_cast<double>(device.memory_bytes) / (1 << 30), device.pci_bus_id.c_str(),
                device.host_numa_node);
    EXPECT_EQ(device.index, static_cast<int>(i));
    EXPECT_FALSE(device.name.empty());
    EXPECT_GE(device.compute_major, 5);
    EXPECT_GT(device.multiprocessor_count, 0);
    EXPECT_GT(device.memory_bytes, uint64_t{1} << 30);
    EXPECT_LE(device.memory_free_bytes, device.memory_bytes);
    EXPECT_EQ(device.pci_bus_id.size(), 12u) << device.pci_bus_id;  // as PciDevice::bus_id has it
    EXPECT_TRUE(std::none_of(device.pci_bus_id.begin(), device.pci_bus_id.end(),
                             [](unsigned char letter) { return std::isupper(letter) != 0; }));
    EXPECT_GE(device.host_numa_node, -1);
  }
}

}  // namespace
}  // namespace vkv
