// write_frames.h: a video for tests that need no decoder.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fstream>
#include <string>

namespace vkv {

// A .npy file, uint8 [frames, 20, 24, 3], each frame another colour. Returns its path.
inline std::string write_frames(const std::string& path, int frames) {
  std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (" +
                       std::to_string(frames) + ", 20, 24, 3), }";
  header.resize(118, ' ');
  std::string bytes = std::string("\x93NUMPY\x01") + '\0' + 'v' + '\0' + header;
  for (int f = 0; f < frames; ++f) {
    for (int i = 0; i < 20 * 24; ++i) {
      bytes += static_cast<char>(f * 29);
      bytes += static_cast<char>(i * 3 + f);
      bytes += static_cast<char>(200 - f * 7);
    }
  }
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

}  // namespace vkv
