// calibrate_command_test.cpp: `vkv calibrate` end to end on a small checkpoint with random weights.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "tests/program_run.h"
#include "tests/temporary_directory.h"

namespace vkv {
namespace {

using Words = std::vector<std::string>;

const std::string kModel = VKV_SOURCE_DIR "/tools/tinyvlm/golden/random";

class CalibrateCommand : public testing::Test {
 protected:
  ProgramResult run(const Words& more) {
    Words words = {"calibrate", "--model", kModel, "--threads", "2", "--out", out_};
    words.insert(words.end(), more.begin(), more.end());
    return Program(VKV_PROGRAM, words).wait();
  }
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
  std::string out_ = folder_ / "policy.json";
};

TEST_F(CalibrateCommand, mistakes_are_explained) {
  const struct {
    Words arguments;
    std::string words;
  } kMistakes[] = {
      {{}, "--jobs"},
      {{"--jobs", "a", "--text", "b"}, "one of them"},
      {{"--text", "/gone.txt"}, "/gone.txt: cannot be opened"},
      {{"--text", text(), "--limit", "-1"}, "--limit"},
      {{"--text", text(), "--codecs", "i4/i2"}, "--codecs has \"i4/i2\""},
      {{"--text", text(), "--base", "visual9"}, "visual9"},
      {{"--text", text(), "--view", "x"}, "auto, shared and window"},
      {{"--text", text(), "--tokens", "300", "--limit", "1"}, "two items are needed"},
      {{"--jobs", write("no.jsonl", "{}\n")}, "no.jsonl:1: "},
  };
  for (const auto& mistake : kMistakes) {
    const ProgramResult result = run(mistake.arguments);
    EXPECT_EQ(result.exit_status, 2) << mistake.words;
    EXPECT_NE(result.err.find(mistake.words), std::string::npos) << result.err;
  }
}

}  // namespace
}  // namespace vkv
