// numa_node.h: how a NUMA node is named: by the system's number, nodeN in /sys/devices/system/node.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vkv {

inline constexpr int kUnknownNode = -1;  // or of no node more than of another

}  // namespace vkv
