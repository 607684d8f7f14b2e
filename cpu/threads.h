// threads.h: how many threads this process may use.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/cgroup_limits.h"

namespace vkv {

// Threads that can really run at once: the allowed CPUs, or fewer where a quota says so. At least
// 1.
int usable_threads(int allowed_cpus, const CgroupLimits& limits);

// The same for this process: CPUs of the calling thread's affinity mask, quotas of its cgroups.
int usable_threads();

// Workers for a caller that asked for so many, 0: all. Never more than are usable: TBB has no
// others, and complains on stderr.
int worker_threads(int asked);

}  // namespace vkv
