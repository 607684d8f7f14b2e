// run_command.h: `vkv run`: answers one job from flags, or a batch of them from a file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tools/vkv/run_arguments.h"

namespace vkv {

// Returns the exit status (exit_code.h). Answers go to standard output or --out, messages to
// standard error.
int run_command(const RunArguments& arguments);

}  // namespace vkv
