// `vkv run --keep-store`: what one run computed, the next one reads, and answers do not change.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/model_command.h"
#include "tests/write_frames.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

class KeepStore : public ModelCommand {
 protected:
  ProgramResult vkv(const Words& arguments) { return Program(VKV_PROGRAM, arguments).wait(); }
  ProgramResult run(const Words& more) {
    return vkv(joined({"run", "--model", kModel, "--threads", "2"}, more));
  }
  static Words joined(Words a, const Words& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
};

TEST_F(KeepStore, kept_media_are_read_by_the_next_run_and_give_the_same_answers) {
  const std::string video = write_frames(folder_ / "v.npy", 7);
  const std::string other = write_frames(folder_ / "w.npy", 6);
  const std::string store = folder_ / "kv.store";
  const Words ask = {
      "--prompt", "What is in frame 05?", "--prompt", "How many?", "--max-tokens", "8", "--json",
      "--verbose"};
  const Words keep = joined(
      ask, {"--nvme-budget", "32M", "--store", store, "--keep-store", "--preset", "visual2"});
  const auto texts = [](const ProgramResult& result) {
    std::vector<std::string> all;
    EXPECT_EQ(result.exit_status, 0) << result.err;
    for (const Json& answer : Json::parse(result.out)["answers"]) all.push_back(answer["text"]);
    return all;
  };
  const auto was_kept = [](const ProgramResult& result) {
    return result.err.find("tokens from the store") != std::string::npos;
  };
  const ProgramResult without = run(joined(ask, {"--video", video, "--preset", "visual2"}));
  const ProgramResult first = run(joined(keep, {"--video", video}));
  EXPECT_FALSE(was_kept(first));
  const ProgramResult second = run(joined(keep, {"--video", video}));
  EXPECT_TRUE(was_kept(second)) << second.err;
  EXPECT_EQ(texts(first), texts(without));
  EXPECT_EQ(texts(second), texts(without));

  // Other media, and other settings, are other names.
  EXPECT_FALSE(was_kept(run(joined(keep, {"--video", other}))));
  EXPECT_FALSE(was_kept(run(joined(keep, {"--video", video, "--recent-tokens", "32"}))));
  const ProgramResult listed = vkv({"inspect", store, "--json", "--sequences", "--verify"});
  EXPECT_EQ(listed.exit_status, 0) << listed.err;
  EXPECT_EQ(Json::parse(listed.out)["sequences"].size(), 3u);

  // A damaged store is a warning, and the answer is computed anew.
  std::string bytes = file_content(store);
  for (size_t at = 8192 + 2000; at < bytes.size(); at += 4096)
    if (bytes.compare(at - 2000, 8, "VKVINDEX") != 0) bytes[at] = static_cast<char>(~bytes[at]);
  std::ofstream(store, std::ios::binary | std::ios::trunc) << bytes;
  const ProgramResult damaged = run(joined(keep, {"--video", video}));
  EXPECT_EQ(texts(damaged), texts(without));
  EXPECT_NE(damaged.err.find("computed anew"), std::string::npos) << damaged.err;

  const ProgramResult nowhere = run(joined(ask, {"--video", video, "--keep-store"}));
  EXPECT_EQ(nowhere.exit_status, 2);
  EXPECT_NE(nowhere.err.find("--keep-store needs --store"), std::string::npos) << nowhere.err;
}

// Media that are asked for the first time are not kept when the day's writes are short, and are
// answered all the same; what was written is counted in the summary and in the file.
TEST_F(KeepStore, a_write_budget_is_kept_and_what_was_written_is_counted) {
  const std::string store = folder_ / "kv.store";
  const Words ask = {
      "--prompt", "What is in frame 05?", "--prompt", "How many?", "--max-tokens", "8",
      "--json",   "--nvme-budget",        "32M",      "--store",   store,          "--keep-store"};
  const ProgramResult first =
      run(joined(ask, {"--video", write_frames(folder_ / "v.npy", 7), "--nvme-writes", "1G"}));
  ASSERT_EQ(first.exit_status, 0) << first.err;
  const Json writes = Json::parse(first.out)["summary"]["nvme_writes"];
  EXPECT_GT(writes["payload_bytes"], 0);
  EXPECT_GT(writes["amplification"], 1.0);
  EXPECT_LT(writes["bytes_left_of_day"], 1 << 30);
  EXPECT_EQ(writes["refused_saves"], 0);
  const Json before = Json::parse(vkv({"inspect", store, "--json"}).out);
  if (before["payload_bytes_ever"] != 0) {  // a file system that keeps attributes of files
    EXPECT_EQ(before["payload_bytes_ever"], writes["payload_bytes"]);
    EXPECT_GT(before["write_amplification"], 1.0);
  }

  const ProgramResult second =
      run(joined(ask, {"--video", write_frames(folder_ / "w.npy", 6), "--nvme-writes", "64K"}));
  ASSERT_EQ(second.exit_status, 0) << second.err;
  EXPECT_NE(second.err.find("the KV of the media is not kept: nvme tier:"), std::string::npos)
      << second.err;
  EXPECT_EQ(Json::parse(second.out)["summary"]["nvme_writes"]["refused_saves"], 1);
  EXPECT_EQ(Json::parse(vkv({"inspect", store, "--json"}).out)["sequence_count"], 1);

  const ProgramResult nowhere = run({"--prompt", "a", "--nvme-writes", "1G"});
  EXPECT_EQ(nowhere.exit_status, 2);
  EXPECT_NE(nowhere.err.find("--nvme-writes needs --nvme-budget"), std::string::npos)
      << nowhere.err;
}

}  // namespace
}  // namespace vkv
