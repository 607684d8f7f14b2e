// threads.cpp: affinity mask and cgroup quotas.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/threads.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>

namespace vkv {
namespace {

int affinity_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  // More than 1024 CPUs do not fit a cpu_set_t.
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// CPUs that one cgroup's quota amounts to; 0 where it sets none.
double quota_of(const std::string& directory) {
  double quota = 0, period = 0;
  std::ifstream v2(directory + "/cpu.max");  // "max 100000" or "200000 100000"
  if (v2 >> quota >> period && period > 0) return quota / period;

  std::ifstream v1_quota(directory + "/cpu.cfs_quota_us"),
      v1_period(directory + "/cpu.cfs_period_us");
  if (v1_quota >> quota && v1_period >> period && quota > 0 && period > 0) return quota / period;
  return 0;
}

// The least quota of this process's cgroup and of those above it; 0 if there is none.
double cgroup_cpus() {
  double least = 0;
  const auto take = [&](const std::string& root, std::string path) {
    for (;;) {
      const double cpus = quota_of(root + path);
      if (cpus > 0) least = least == 0 ? cpus : std::min(least, cpus);
      const size_t slash = path.rfind('/');
      if (slash == std::string::npos || path.empty()) return;
      path.resize(slash);
    }
  };
  std::ifstream cgroups("/proc/self/cgroup");  // lines of "id:controllers:path"
  for (std::string line; std::getline(cgroups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) take("/sys/fs/cgroup", path);
    if (controllers.find("cpu") != std::string::npos) take("/sys/fs/cgroup/cpu", path);
  }
  return least;
}

}  // namespace

int usable_threads() {
  const int cpus = affinity_cpus();
  const double quota = cgroup_cpus();
  if (quota <= 0) return cpus;
  return std::clamp(static_cast<int>(std::ceil(quota)), 1, cpus);
}

}  // namespace vkv
