// hbm_arguments.h: flags of a cache on a GPU: what lies there, and how the rest is read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/App.hpp>
#include <string>

#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct HbmArguments {
  std::string budget;            // a size; empty: the options' own
  std::string blocks;            // of it, a size; empty: all
  std::string read_ahead;        // of it, a size; empty: the default
  std::string host_share = "0";  // to 1, or "auto"
};

// --hbm-budget, --hbm-blocks, --read-ahead and --host-share. `arguments` is filled when the command
// line is parsed.
void add_hbm_flags(CLI::App& command, HbmArguments& arguments, const std::string& group);

// Into options of device cuda. Errors: kInvalidArgument naming the flag and what it may be.
Status apply(const HbmArguments& arguments, CacheOptions& options);

}  // namespace vkv
