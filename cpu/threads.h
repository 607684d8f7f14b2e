// threads.h: how many threads this process may use.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vkv {

// CPUs of the affinity mask, or fewer where a cgroup's CPU quota says so; at least 1.
int usable_threads();

}  // namespace vkv
