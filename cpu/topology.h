// topology.h: what the machine has, and how much of it this process may use.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/cgroup_limits.h"
#include "cpu/isa_features.h"
#include "runtime/base/numa_node.h"
#include "vkv/status.h"

namespace vkv {

struct NumaNode {
  int os_index = 0;           // as in /sys/devices/system/node/nodeN
  uint64_t memory_bytes = 0;  // of the node, not what is free
  std::string cpus;           // PUs by the system's numbers: "0-7,16-23"; empty: memory only
  int pu_count = 0;
  std::vector<int> allowed_cpus;  // those of `cpus` that this process may use, ascending
};

// Data and unified caches of one level.
struct CacheLevel {
  int level = 0;             // 1..
  int cache_count = 0;       // on the machine
  uint64_t cache_bytes = 0;  // of one
  int pus_per_cache = 0;     // that share one
};

struct PciDevice {
  enum class Kind : uint8_t { kGpu, kNvme };

  Kind kind = Kind::kGpu;
  std::string bus_id;    // "0000:3b:00.0", lower case
  std::string name;      // vendor and device; "10de:2330" where no database of names is installed
  std::string os_names;  // what the system calls it, "nvme0n1"; empty without a driver
  int numa_node = kUnknownNode;  // os_index of the nearest
};

struct Topology {
  std::string cpu_model;  // empty if unknown
  int package_count = 0;
  int core_count = 0;
  int pu_count = 0;           // hardware threads
  uint64_t memory_bytes = 0;  // of all nodes

  std::string allowed_cpus;  // by cgroup and affinity mask: "0-3"
  int allowed_pu_count = 0;
  CgroupLimits limits;

  std::vector<NumaNode> nodes;     // by os_index
  std::vector<CacheLevel> caches;  // by level
  std::vector<PciDevice> devices;  // display and 3D controllers, accelerators, NVMe; by bus_id
  IsaFeatures isa;

  // Threads that can really run at once: allowed PUs, or fewer where a quota says so. At least 1.
  int usable_thread_count() const;
};

// Describes this machine; or the one that `synthetic` describes in hwloc's words ("node:2 core:4
// pu:2"), without limits, devices and instructions. The allowed PUs are those of the calling
// thread. Errors: kInvalidArgument for a description that hwloc does not understand; kUnsupported
// where hwloc sees nothing.
Result<Topology> read_topology(std::string_view synthetic = {});

}  // namespace vkv
