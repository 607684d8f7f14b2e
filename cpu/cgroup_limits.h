// cgroup_limits.h: how much CPU time and memory the process's control groups allow.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace vkv {

// The tightest of the process's own group and all groups above it; 0 where there is no limit.
struct CgroupLimits {
  double cpus = 0;            // CPU seconds a second
  uint64_t memory_bytes = 0;  // swap not counted
};

// Understands versions 1 and 2, and the two side by side. What is missing or not readable is no
// limit. The arguments are for tests.
CgroupLimits read_cgroup_limits(const std::string& membership_path = "/proc/self/cgroup",
                                const std::string& mount_path = "/sys/fs/cgroup");

}  // namespace vkv
