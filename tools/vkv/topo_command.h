// topo_command.h: `vkv topo`: what this machine has.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace vkv {

struct TopoArguments {
  std::string machine;  // described in hwloc's words; empty: this one
  bool json = false;
};

// Prints to standard output. Returns the exit status (exit_code.h).
int topo_command(const TopoArguments& arguments);

}  // namespace vkv
