// quality_command_test.cpp: `vkv quality` end to end on a small checkpoint with random weights.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/model_command.h"
#include "tools/quality/quality_report.h"

namespace vkv {
namespace {

class QualityCommand : public ModelCommand {
 protected:
  static Words words(const Words& more) {
    Words all = {"quality", "--model", kModel, "--threads", "2"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  ProgramResult run(const Words& more) { return Program(VKV_PROGRAM, words(more)).wait(); }
};

TEST_F(QualityCommand, compares_passages_and_writes_json_and_a_report) {
  const std::string json = folder_ / "q.json", html = folder_ / "q.html";
  Words more = {"--text",
                text(),
                "--tokens",
                "300",
                "--tail",
                "40",
                "--limit",
                "3",
                "--calibration-items",
                "1",
                "--configs",
                "exact,i8,i2,kivi2,quantile1",
                "--json",
                json,
                "--recent-tokens",
                "32",
                "--max-tokens",
                "4"};
  if (!chart_script().empty()) more.insert(more.end(), {"--report", html});
  const ProgramResult result = run(more);
  ASSERT_EQ(result.exit_status, 0) << result.err;
  EXPECT_NE(result.out.find("quantile1"), std::string::npos);
  EXPECT_NE(result.out.find("I8 PASS"), std::string::npos) << result.out;
  const auto parsed = nlohmann::json::parse(file_content(json));
  EXPECT_EQ(parsed["items"], 2);
  EXPECT_EQ(parsed["calibration_items"], 1);
  ASSERT_EQ(parsed["configurations"].size(), 5u);
  EXPECT_LT(parsed["configurations"][0]["kl"]["mean"], 1e-9);
  EXPECT_LT(parsed["configurations"][1]["kl"]["mean"], parsed["configurations"][2]["kl"]["mean"]);
  EXPECT_GT(parsed["configurations"][0]["positions"], 80);
  if (!chart_script().empty()) {
    const std::string page = file_content(html);
    EXPECT_NE(page.find("<canvas id=\"kl\">"), std::string::npos);
    EXPECT_GT(page.size(), 150'000u);  // Chart.js is inside
  }
}

TEST_F(QualityCommand, mistakes_are_explained) {
  const struct {
    Words arguments;
    std::string words;
  } kMistakes[] = {
      {{}, "--jobs"},
      {{"--jobs", "a", "--text", "b"}, "one of them"},
      {{"--text", "/gone.txt"}, "/gone.txt: cannot be opened"},
      {{"--text", text(), "--configs", "i5"}, "no configuration is called \"i5\""},
      {{"--text", text(), "--configs", "i8,i8"}, "stands twice"},
      {{"--text", text(), "--tokens", "10", "--tail", "10"}, "passage of 10 tokens"},
      {{"--text", text(), "--tokens", "90000"}, "text.txt: the text has"},
      {{"--text", text(), "--view", "x"}, "auto, shared and window"},
      {{"--text", text(), "--text-role", "x"}, "visual and text"},
      {{"--text", text(), "--max-tokens", "500"}, "--recent-tokens (128)"},
      {{"--text", text(), "--configs", "visual:i1/i4"}, "K"},
      {{"--jobs", write("no.jsonl", "{}\n")}, "no job that can be run"},
      {{"--text", text(), "--tokens", "300", "--limit", "1", "--configs", "quantile1"},
       "single item"},
  };
  for (const auto& mistake : kMistakes) {
    const ProgramResult result = run(mistake.arguments);
    EXPECT_EQ(result.exit_status, 2) << mistake.words;
    EXPECT_NE(result.err.find(mistake.words), std::string::npos) << result.err;
  }
}

TEST_F(QualityCommand, a_failed_job_makes_the_exit_status_1_and_is_named) {
  const std::string jobs = write("jobs.jsonl",
                                 "{\"id\": \"a\", \"prompt\": \"what is red?\"}\n"
                                 "{\"id\": \"b\", \"image\": \"gone.png\", \"prompt\": \"?\"}\n");
  const ProgramResult result = run({"--jobs", jobs, "--configs", "i8", "--max-tokens", "4"});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_NE(result.err.find("gone.png"), std::string::npos) << result.err;
  EXPECT_NE(result.out.find("1 items failed"), std::string::npos) << result.out;
}

TEST_F(QualityCommand, an_interrupt_shows_what_was_done) {
  Words more = words({"--text", text(8000), "--tokens", "300", "--tail", "40", "--max-tokens", "32",
                      "--configs", "i8,i4,i2,kivi4,kivi2,quantile2:.1", "--progress"});
  Program program(VKV_PROGRAM, more);
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  program.stop(SIGINT);
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_status, 130) << result.out;
  EXPECT_TRUE(result.out.find("INTERRUPTED") != std::string::npos ||
              result.err.find("nothing was compared") != std::string::npos)
      << result.out << result.err;
}

}  // namespace
}  // namespace vkv
