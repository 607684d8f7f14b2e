// calibrate_command_test.cpp: `vkv calibrate` end to end on a small checkpoint with random weights.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/model_command.h"
#include "tools/vkv/bit_plan.h"
#include "tools/vkv/plan_search.h"
#include "tools/vkv/policy_file.h"

namespace vkv {
namespace {

class CalibrateCommand : public ModelCommand {
 protected:
  Words words(const Words& more, const std::string& threads = "2") const {
    Words all = {"calibrate", "--model", kModel, "--threads", threads, "--out", out_};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  ProgramResult run(const Words& more) { return Program(VKV_PROGRAM, words(more)).wait(); }

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
      {{"--text", text(), "--test-items", "0"}, "--test-items"},
      {{"--text", text(), "--calibration-items", "0"}, "--calibration-items"},
      {{"--text", text(), "--bits", "0.5", "--tokens", "300", "--limit", "2"}, "bits a value"},
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

// "NAME  KL ..." of the table of other items, "* " before the name that was written.
struct Rival {
  bool written = false;
  std::string name;
  double kl = 0;
  double bits = 0;
};
std::vector<Rival> rivals(const std::string& out) {
  std::vector<Rival> all;
  std::istringstream lines(out.substr(std::min(out.size(), out.find("  policy "))));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line) && line.size() > 36) {
    Rival one{.written = line[0] == '*', .name = line.substr(2, 34)};
    one.name.resize(one.name.find_last_not_of(' ') + 1);
    std::istringstream numbers(line.substr(36));
    double p99 = 0, top1 = 0;
    std::string percent;
    numbers >> one.kl >> p99 >> top1 >> percent >> one.bits;
    all.push_back(one);
  }
  return all;
}

TEST_F(CalibrateCommand, what_is_written_is_no_worse_on_other_items_than_any_uniform_pair) {
  const Words more = {"--text",          text(), "--tokens",     "300",     "--tail",   "40",
                      "--limit",         "6",    "--base",       "visual1", "--codecs", "i4,i2,i1",
                      "--recent-tokens", "32",   "--max-tokens", "4",       "--quiet"};
  const ProgramResult result = run({more.begin(), more.end() - 1});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  EXPECT_NE(result.out.find("mean KL (1e-6 nats) when only this is encoded, 3 items"),
            std::string::npos)
      << result.out;
  const std::vector<Rival> all = rivals(result.out);
  ASSERT_GE(all.size(), 4u) << result.out;  // the plan, the base, i1/i1, i2/i1
  int written = 0;
  for (const Rival& one : all) {
    written += one.written ? 1 : 0;
    const auto best =
        std::find_if(all.begin(), all.end(), [](const Rival& r) { return r.written; });
    ASSERT_NE(best, all.end());
    EXPECT_LE(best->kl, one.kl) << one.name;
  }
  EXPECT_EQ(written, 1);

  // The file is that policy: within the budget, K at least as V in every layer.
  const PrecisionPolicy policy = policy_from(out_).value();
  const PrecisionPolicy base = precision_preset("visual1").value();
  EXPECT_EQ(policy.name, "policy");
  Plan plan;
  for (int layer = 0; layer < 2; ++layer) plan.push_back(precision_of_layer(policy, layer).low);
  EXPECT_LE(plan_bits_mean(plan, 64), pair_bits(base.low, 64) / 2 + 1e-9);
  EXPECT_EQ(precision_of_layer(policy, 1).high, base.high);

  // Again, with one worker: the same file.
  const std::string first = file_content(out_);
  const ProgramResult second = Program(VKV_PROGRAM, words(more, "1")).wait();
  EXPECT_EQ(second.exit_status, 0) << second.err;
  EXPECT_EQ(second.out, "");
  EXPECT_EQ(file_content(out_), first);
}

TEST_F(CalibrateCommand, an_interrupt_ends_it) {
  Program program(VKV_PROGRAM, words({"--text", text(8000), "--tokens", "300", "--tail", "40",
                                      "--limit", "60", "--max-tokens", "4", "--progress"}));
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  program.stop(SIGINT);
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_status, 130) << result.out << result.err;
}

}  // namespace
}  // namespace vkv
