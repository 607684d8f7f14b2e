// model_command.h: a subcommand of vkv on the small checkpoint with random weights, over a text.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "tests/program_run.h"
#include "tests/temporary_directory.h"

namespace vkv {

using Words = std::vector<std::string>;

inline const std::string kModel = VKV_SOURCE_DIR "/tools/tinyvlm/golden/random";

class ModelCommand : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  // Needs no FFmpeg.
  std::string text(int sentences = 400) {
    std::string all;
    for (int i = 0; i < sentences; ++i)
      all += "how many frames show " + std::to_string(i % 97) + "? ";
    return write("text.txt", all);
  }

  TemporaryDirectory folder_;
};

}  // namespace vkv
