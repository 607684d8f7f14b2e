// `vkv plan`: a table for presets and budgets whose numbers add up, and errors that say what to do.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/program_run.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

ProgramResult plan(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "plan");
  return Program(VKV_PROGRAM, arguments).wait();
}

TEST(PlanCommand, rows_add_up_and_more_hbm_is_never_slower) {
  const ProgramResult result =
      plan({"--json", "--tokens", "131072", "--hbm-speed", "3000", "--link-speed", "50",
            "--cpu-speed", "30", "--presets", "exact,balanced", "--hbm-blocks", "0,1G,16G"});
  ASSERT_EQ(result.exit_status, 0) << result.err;
  const Json json = Json::parse(result.out);
  const Json& rows = json.at("rows");
  ASSERT_EQ(rows.size(), 6u);
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto bytes = [&](const char* key) { return rows[i].at(key).get<uint64_t>(); };
    const double ms = rows[i].at("step_ms").get<double>();
    EXPECT_EQ(bytes("ahead_bytes") + bytes("link_bytes") + bytes("cpu_bytes"),
              bytes("dram_kv_bytes"));
    const double waits = static_cast<double>(bytes("link_bytes") + bytes("cpu_bytes")) / 80e9;
    EXPECT_NEAR(ms, rows[i].at("hbm_ms").get<double>() + 1e3 * waits, 1e-3);
    if (i % 3 > 0) {
      EXPECT_LE(ms, rows[i - 1].at("step_ms").get<double>());
    }
  }
  EXPECT_EQ(rows[0].at("bound_by"), "link and cpu");
  EXPECT_EQ(rows[2].at("bound_by"), "hbm");
  EXPECT_GT(rows[0].at("step_ms").get<double>(), 3 * rows[3].at("step_ms").get<double>());
}

TEST(PlanCommand, errors_say_what_there_is) {
  const std::vector<std::string> speeds = {"--hbm-speed", "3000", "--link-speed", "50"};
  const auto refused = [&](std::vector<std::string> arguments, const std::string& words) {
    arguments.insert(arguments.end(), speeds.begin(), speeds.end());
    const ProgramResult result = plan(arguments);
    EXPECT_EQ(result.exit_status, 2) << words;
    EXPECT_NE(result.err.find(words), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  refused({"--model", "none"}, "there are smollm2-135m, llava-1.5-7b, qwen2.5-7b");
  refused({"--presets", "none"}, "there are exact safe");
  refused({"--hbm-blocks", "1X"}, "\"1X\" is no size");
  refused({"--tokens", "100"}, "--text-tokens is 256, more than --tokens, 100");
}

}  // namespace
}  // namespace vkv
