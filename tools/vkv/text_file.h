// text_file.h: reports and traces to files.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fstream>
#include <string>
#include <string_view>

#include "vkv/status.h"

namespace vkv {

// In place of what was there. Errors: kIo naming the path.
inline Status write_text_file(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (file) return {};
  return {Code::kIo, path + ": cannot be written"};
}

}  // namespace vkv
