// topo_command.h: `vkv topo`: what this machine has.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vkv {

// Prints to standard output. Returns the exit status (exit_code.h).
int topo_command(bool json);

}  // namespace vkv
