// inspect_command.h: `vkv inspect`: what is in a store, and whether it is whole.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace vkv {

struct InspectArguments {
  std::string path;
  bool sequences = false;
  bool segments = false;
  bool verify = false;
  bool json = false;
};

// Adds the flags with their help to the subcommand; parsing fills `arguments`, which must stay.
void add_inspect_flags(CLI::App& command, InspectArguments& arguments);

// Reads only, and shares the file with other readers. Returns kExitSomeFailed for a store with
// damage, kExitUsage for a file that cannot be read as one.
int inspect_command(const InspectArguments& arguments);

}  // namespace vkv
