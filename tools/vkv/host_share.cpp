// host_share.cpp: a word or a fraction.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/host_share.h"

#include <charconv>
#include <string>

namespace vkv {

Result<double> parse_host_share(std::string_view text) {
  if (text == "auto") return -1.0;
  double share = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), share);
  if (error != std::errc() || end != text.data() + text.size() || !(share >= 0 && share <= 1))
    return Status(Code::kInvalidArgument,
                  "--host-share is \"" + std::string(text) + "\"; it is auto or 0 to 1, like 0.5");
  return share;
}

}  // namespace vkv
