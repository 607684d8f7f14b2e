// serve_command_test.cpp: `vkv serve` as a process: it stops when it is told to, what was read
// survives kill -9, and what cannot be served is said before it listens.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <thread>

#include "tests/http_client.h"
#include "tests/model_command.h"
#include "tests/write_frames.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

class ServeCommand : public ModelCommand {
 protected:
  static Words with(const Words& more) {
    Words words = {"serve", "--model", kModel, "--threads", "2"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  void start(Words more) {
    more.insert(more.end(), {"--port", "0"});
    program_ = std::make_unique<Program>(VKV_PROGRAM, with(more));
    port_ = 0;
    for (int i = 0; i < 3000 && port_ == 0 && program_->running(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      const std::string said = program_->output();
      const size_t colon = said.rfind(':');
      if (said.ends_with("\n") && colon != said.npos) port_ = std::stoi(said.substr(colon + 1));
    }
    if (port_ == 0) skipped_ = program_->wait();
  }
  // A build without the HTTP library.
  bool is_absent() const { return skipped_.err.find("without cpp-httplib") != std::string::npos; }

  Json ask(const std::string& question) {
    const Json body = {
        {"model", "random"},
        {"max_tokens", 8},
        {"messages",
         Json::array({{{"role", "user"},
                       {"content", Json::array({{{"type", "video_url"},
                                                 {"video_url", {{"url", "file://" + video_}}}},
                                                {{"type", "text"}, {"text", question}}})}}})}};
    const HttpResponse response = http_ask(port_, http_post("/v1/chat/completions", body.dump()));
    EXPECT_EQ(response.status, 200) << response.body;
    return response.json();
  }
  static std::string text_of(const Json& answer) {
    return answer["choices"][0]["message"]["content"];
  }
  static int cached_tokens(const Json& answer) {
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"];
  }

  const std::string video_ = write_frames(folder_ / "v.npy", 7);
  std::unique_ptr<Program> program_;
  ProgramResult skipped_;
  int port_ = 0;
};

TEST_F(ServeCommand, media_survive_kill_and_a_stop_is_clean) {
  const Words flags = {"--media-root",       folder_.path(), "--nvme-budget", "32M",    "--store",
                       folder_ / "kv.store", "--keep-store", "--preset",      "visual2"};
  start(flags);
  if (is_absent()) GTEST_SKIP() << skipped_.err;
  ASSERT_GT(port_, 0) << skipped_.err;
  const Json first = ask("What is in frame 05?");
  EXPECT_EQ(cached_tokens(first), 0);
  program_->stop(SIGKILL);
  EXPECT_EQ(program_->wait().exit_status, 128 + SIGKILL);

  start(flags);
  ASSERT_GT(port_, 0) << skipped_.err;
  const Json second = ask("What is in frame 05?");
  EXPECT_EQ(text_of(second), text_of(first));
  EXPECT_GT(cached_tokens(second), 7 * 64);
  const std::string metrics = http_ask(port_, http_get("/metrics")).body;
  EXPECT_NE(metrics.find("\nvkv_media_restored_total 1\n"), std::string::npos) << metrics;
  EXPECT_EQ(cached_tokens(ask("How many?")), cached_tokens(second));
  program_->stop(SIGTERM);
  const ProgramResult stopped = program_->wait();
  EXPECT_EQ(stopped.exit_status, 0) << stopped.err;
  EXPECT_EQ(stopped.err, "");

  // A damaged store is a warning, and the media are read anew.
  std::string bytes = file_content(folder_ / "kv.store");
  for (size_t at = 8192 + 2000; at < bytes.size(); at += 4096)
    if (bytes.compare(at - 2000, 8, "VKVINDEX") != 0) bytes[at] = static_cast<char>(~bytes[at]);
  std::ofstream(folder_ / "kv.store", std::ios::binary | std::ios::trunc) << bytes;
  start(flags);
  ASSERT_GT(port_, 0) << skipped_.err;
  const Json third = ask("What is in frame 05?");
  EXPECT_EQ(text_of(third), text_of(first));
  EXPECT_EQ(cached_tokens(third), 0);
  program_->stop(SIGINT);
  const ProgramResult damaged = program_->wait();
  EXPECT_EQ(damaged.exit_status, 0);
  EXPECT_NE(damaged.err.find("computed anew"), std::string::npos) << damaged.err;
}

TEST_F(ServeCommand, what_cannot_be_served_is_said_at_once) {
  const auto expect_refused = [&](const Words& more, const std::string& words) {
    const ProgramResult result = Program(VKV_PROGRAM, with(more)).wait();
    EXPECT_EQ(result.exit_status, 2);
    EXPECT_NE(result.err.find(words), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  };
  expect_refused({"--store", "a"}, "--store needs --nvme-budget");
  expect_refused({"--dram-budget", "2M"}, "raise them, or lower --window-tokens");
  expect_refused({"--media-root", folder_ / "none"}, "no folder for media");
  expect_refused({"--body-limit", "x"}, "--body-limit");
  start({});
  if (is_absent()) GTEST_SKIP() << skipped_.err;
  expect_refused({"--port", std::to_string(port_)}, "cannot listen on 127.0.0.1 port");
  expect_refused({"--host", "192.0.2.1"}, "cannot listen on 192.0.2.1");  // RFC 5737: nobody's
}

}  // namespace
}  // namespace vkv
