// byte_size.h: sizes as people write them: 512M, 1.5G, 4096.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "vkv/status.h"

namespace vkv {

// A number with an optional K, M, G or T (powers of 1024), which "B" or "iB" may follow. Bytes
// without one. Errors: kInvalidArgument, with an example.
Result<uint64_t> parse_byte_size(std::string_view text);

// The value of a flag, into `target`; an empty text leaves it as it is. Errors: as above, naming
// the flag.
Status read_byte_size(std::string_view flag, std::string_view text, uint64_t& target);

// At most one decimal: "512.0 MiB", "17 B".
std::string byte_size_text(uint64_t byte_count);

}  // namespace vkv
