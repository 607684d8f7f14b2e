// What hwloc, cgroups and cpuid say arrives as it is, for described machines and for this one.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/topology.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "tests/temporary_directory.h"

namespace vkv {
namespace {

void write_file(const std::string& path, const std::string& text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path) << text;
}

TEST(topology, a_described_machine_is_counted) {
  const auto read = read_topology("node:2 core:4 pu:2");
  ASSERT_TRUE(read.ok()) << read.status().message();
  const Topology& topology = read.value();
  EXPECT_EQ(topology.core_count, 8);
  EXPECT_EQ(topology.pu_count, 16);
  EXPECT_EQ(topology.allowed_cpus, "0-15");
  EXPECT_EQ(topology.allowed_pu_count, 16);
  EXPECT_EQ(topology.usable_thread_count(), 16);
  ASSERT_EQ(topology.nodes.size(), 2u);
  EXPECT_EQ(topology.nodes[1].os_index, 1);
  EXPECT_EQ(topology.nodes[1].cpus, "8-15");
  EXPECT_EQ(topology.nodes[1].pu_count, 8);
  EXPECT_EQ(topology.memory_bytes, topology.nodes[0].memory_bytes + topology.nodes[1].memory_bytes);
  // Nothing of the machine that the test runs on.
  EXPECT_EQ(topology.isa.names(), "none");
  EXPECT_TRUE(topology.devices.empty());
}

TEST(topology, caches_and_packages_of_a_described_machine_are_counted) {
  const auto read = read_topology("pack:2 l3:2(size=33554432) l2:4(size=1048576) core:1 pu:2");
  ASSERT_TRUE(read.ok()) << read.status().message();
  const Topology& topology = read.value();
  EXPECT_EQ(topology.package_count, 2);
  ASSERT_EQ(topology.caches.size(), 2u);
  EXPECT_EQ(topology.caches[0].level, 2);
  EXPECT_EQ(topology.caches[0].cache_count, 16);
  EXPECT_EQ(topology.caches[0].pus_per_cache, 2);
  EXPECT_EQ(topology.caches[1].cache_bytes, 33554432u);
  EXPECT_EQ(topology.caches[1].pus_per_cache, 8);
}

TEST(topology, a_description_that_makes_no_sense_is_refused) {
  const auto read = read_topology("two sockets, please");
  EXPECT_EQ(read.status().code(), Code::kInvalidArgument);
  EXPECT_EQ(read.status().message(),
            "'two sockets, please' is not a machine that hwloc understands; one is 'node:2 core:4 "
            "pu:2'");
}

// Two packages, a node each; a GPU at the second, an NVMe drive at the first, a network card, and a
// GPU that is near to both.
constexpr const char* kMachineWithDevices = R"(<?xml version="1.0" encoding="UTF-8"?>
<topology version="2.0">
 <object type="Machine" os_index="0" cpuset="0x3" complete_cpuset="0x3" allowed_cpuset="0x3"
   nodeset="0x3" complete_nodeset="0x3" allowed_nodeset="0x3" gp_index="1">
  <object type="Package" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1"
    complete_nodeset="0x1" gp_index="2">
   <info name="CPUModel" value="Test CPU"/>
   <object type="NUMANode" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1"
     complete_nodeset="0x1" gp_index="3" local_memory="1073741824"/>
   <object type="Core" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1"
     complete_nodeset="0x1" gp_index="4">
    <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1"
      complete_nodeset="0x1" gp_index="5"/>
   </object>
   <object type="Bridge" gp_index="6" bridge_type="0-1" depth="0" bridge_pci="0000:[00-01]">
    <object type="PCIDev" gp_index="7" pci_busid="0000:01:00.0"
      pci_type="0108 [144d:a80a] [144d:a801] 00" pci_link_speed="7.876923">
     <info name="PCIVendor" value="Samsung"/>
     <info name="PCIDevice" value="PM9A1"/>
     <object type="OSDev" gp_index="8" name="nvme0n1" osdev_type="0"/>
    </object>
    <object type="PCIDev" gp_index="9" pci_busid="0000:01:00.1"
      pci_type="0200 [8086:1572] [8086:0000] 00" pci_link_speed="0.0"/>
   </object>
  </object>
  <object type="Package" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2"
    complete_nodeset="0x2" gp_index="12">
   <object type="NUMANode" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2"
     complete_nodeset="0x2" gp_index="13" local_memory="2147483648"/>
   <object type="Core" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2"
     complete_nodeset="0x2" gp_index="14">
    <object type="PU" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2"
      complete_nodeset="0x2" gp_index="15"/>
   </object>
   <object type="Bridge" gp_index="16" bridge_type="0-1" depth="0" bridge_pci="0000:[3a-3b]">
    <object type="PCIDev" gp_index="17" pci_busid="0000:3b:00.0"
      pci_type="0302 [10de:2330] [10de:16c1] a1" pci_link_speed="63.015385"/>
   </object>
  </object>
  <object type="Bridge" gp_index="26" bridge_type="0-1" depth="0" bridge_pci="0000:[80-81]">
   <object type="PCIDev" gp_index="27" pci_busid="0000:81:00.0"
     pci_type="0300 [1002:73bf] [1002:0e3a] c1" pci_link_speed="31.507692"/>
  </object>
 </object>
</topology>
)";

TEST(topology, devices_come_with_their_nearest_node) {
  const TemporaryDirectory directory;
  write_file(directory / "machine.xml", kMachineWithDevices);
  setenv("HWLOC_XMLFILE", (directory / "machine.xml").c_str(), 1);  // hwloc reads it by itself
  const auto read = read_topology();
  unsetenv("HWLOC_XMLFILE");
  ASSERT_TRUE(read.ok()) << read.status().message();
  const Topology& topology = read.value();
  EXPECT_EQ(topology.cpu_model, "Test CPU");
  EXPECT_EQ(topology.memory_bytes, uint64_t{3} << 30);
  ASSERT_EQ(topology.devices.size(), 3u);
  const PciDevice &nvme = topology.devices[0], &near = topology.devices[1],
                  &between = topology.devices[2];
  EXPECT_EQ(nvme.kind, PciDevice::Kind::kNvme);
  EXPECT_EQ(nvme.bus_id, "0000:01:00.0");
  EXPECT_EQ(nvme.name, "Samsung PM9A1");
  EXPECT_EQ(nvme.os_names, "nvme0n1");
  EXPECT_EQ(nvme.numa_node, 0);
  EXPECT_EQ(near.kind, PciDevice::Kind::kGpu);
  EXPECT_EQ(near.name, "10de:2330");
  EXPECT_EQ(near.numa_node, 1);
  EXPECT_EQ(between.bus_id, "0000:81:00.0");
  EXPECT_EQ(between.numa_node, kUnknownNode);
}

TEST(topology, this_machine_has_what_the_process_runs_on) {
  const auto read = read_topology();
  ASSERT_TRUE(read.ok()) << read.status().message();
  const Topology& topology = read.value();
  cpu_set_t mask;
  ASSERT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
  EXPECT_EQ(topology.allowed_pu_count, CPU_COUNT(&mask));
  EXPECT_GE(topology.pu_count, topology.allowed_pu_count);
  EXPECT_GE(topology.usable_thread_count(), 1);
  EXPECT_LE(topology.usable_thread_count(), topology.allowed_pu_count);
  EXPECT_GE(topology.nodes.size(), 1u);
  EXPECT_GT(topology.memory_bytes, 0u);
  EXPECT_EQ(topology.isa.avx2, __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(topology.isa.avx512f, __builtin_cpu_supports("avx512f") != 0);
  EXPECT_EQ(topology.isa.avx512vnni, __builtin_cpu_supports("avx512vnni") != 0);
  EXPECT_EQ(topology.isa.avx512bf16, __builtin_cpu_supports("avx512bf16") != 0);
}

TEST(topology, an_affinity_mask_counts) {
  std::thread([] {
    cpu_set_t mask;
    ASSERT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
    int last = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) last = CPU_ISSET(cpu, &mask) ? cpu : last;
    CPU_ZERO(&mask);
    CPU_SET(last, &mask);
    ASSERT_EQ(sched_setaffinity(0, sizeof(mask), &mask), 0);
    const auto read = read_topology();
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read.value().allowed_cpus, std::to_string(last));
    EXPECT_EQ(read.value().usable_thread_count(), 1);
  }).join();
}

TEST(topology, a_quota_limits_the_threads_rounded_up) {
  Topology topology;
  topology.allowed_pu_count = 8;
  EXPECT_EQ(topology.usable_thread_count(), 8);
  topology.limits.cpus = 2.5;
  EXPECT_EQ(topology.usable_thread_count(), 3);
  topology.limits.cpus = 0.1;
  EXPECT_EQ(topology.usable_thread_count(), 1);
}

TEST(cgroup_limits, version_2_takes_the_tightest_up_to_the_root) {
  const TemporaryDirectory directory;
  write_file(directory / "self", "0::/jobs/one\n");
  write_file(directory / "fs/jobs/cpu.max", "150000 100000\n");
  write_file(directory / "fs/jobs/memory.max", "4294967296\n");
  write_file(directory / "fs/jobs/one/cpu.max", "max 100000\n");
  write_file(directory / "fs/jobs/one/memory.max", "2147483648\n");
  const CgroupLimits limits = read_cgroup_limits(directory / "self", directory / "fs");
  EXPECT_DOUBLE_EQ(limits.cpus, 1.5);
  EXPECT_EQ(limits.memory_bytes, uint64_t{2} << 30);
}

TEST(cgroup_limits, version_1_in_a_container_that_hides_the_hosts_groups) {
  const TemporaryDirectory directory;
  write_file(directory / "self", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n");
  write_file(directory / "fs/cpu/cpu.cfs_quota_us", "400000\n");
  write_file(directory / "fs/cpu/cpu.cfs_period_us", "100000\n");
  write_file(directory / "fs/memory/memory.limit_in_bytes", "1073741824\n");
  const CgroupLimits limits = read_cgroup_limits(directory / "self", directory / "fs");
  EXPECT_DOUBLE_EQ(limits.cpus, 4.0);
  EXPECT_EQ(limits.memory_bytes, uint64_t{1} << 30);
}

TEST(cgroup_limits, no_limit_and_no_files_are_zero) {
  const TemporaryDirectory directory;
  write_file(directory / "self", "garbage\n4:memory:/\n3:cpu:/\n0::/\n");
  write_file(directory / "fs/cpu/cpu.cfs_quota_us", "-1\n");
  write_file(directory / "fs/cpu/cpu.cfs_period_us", "100000\n");
  write_file(directory / "fs/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write_file(directory / "fs/unified/memory.max", "max\n");
  for (const char* const mount : {"fs", "not there"}) {
    const CgroupLimits limits = read_cgroup_limits(directory / "self", directory / mount);
    EXPECT_EQ(limits.cpus, 0.0);
    EXPECT_EQ(limits.memory_bytes, 0u);
  }
}

}  // namespace
}  // namespace vkv
