// python_script.h: scripts that the program carries, run by a Python of the machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "vkv/status.h"

namespace vkv {

// Runs the script and waits for it; what it printed to standard output. python: a path, or a name
// to be found in PATH. Errors: kUnsupported if the interpreter cannot be run or fails; its own
// words are on standard error.
Result<std::string> run_python(const std::string& python, const std::string& script,
                               std::span<const std::string> arguments);

const char* torch_attention_script();  // torch_attention.py
const char* peers_script();            // peers.py

}  // namespace vkv
