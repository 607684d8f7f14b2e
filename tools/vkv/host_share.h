// host_share.h: the flag --host-share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "vkv/status.h"

namespace vkv {

// "auto" is -1; else a number from 0 to 1. Errors: kInvalidArgument naming the flag.
Result<double> parse_host_share(std::string_view text);

}  // namespace vkv
