// threads.cpp: affinity mask and cgroup quotas.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/threads.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <thread>

namespace vkv {

int usable_threads(int allowed_cpus, const CgroupLimits& limits) {
  // A part of a CPU is worth a thread: rounding down would leave it idle.
  const int quota = limits.cpus > 0 ? static_cast<int>(std::ceil(limits.cpus)) : allowed_cpus;
  return std::max(1, std::min(allowed_cpus, quota));
}

int usable_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // More than 1024 CPUs do not fit a cpu_set_t.
  const bool known = sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0;
  const int allowed =
      known ? CPU_COUNT(&set) : static_cast<int>(std::thread::hardware_concurrency());
  return usable_threads(allowed, read_cgroup_limits());
}

int worker_threads(int asked) {
  const int usable = usable_threads();
  return asked > 0 ? std::min(asked, usable) : usable;
}

}  // namespace vkv
