// qwen_vl_run_test.cpp: `vkv run` with a Qwen-VL checkpoint: pictures and video, fewer tokens on
// request, kept media that give the same answers, and errors of one line.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/model_command.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

const std::string kGolden = VKV_SOURCE_DIR "/tests/golden/qwen_vl/";

class QwenVlRun : public ModelCommand {
 protected:
  static ProgramResult run(const std::string& family, const Words& more) {
    Words words = {"run",          "--model", kGolden + family, "--threads", "2",
                   "--max-tokens", "5",       "--json",         "--verbose"};
    words.insert(words.end(), more.begin(), more.end());
    return Program(VKV_PROGRAM, words).wait();
  }
  static std::vector<std::string> texts(const ProgramResult& result) {
    std::vector<std::string> all;
    EXPECT_EQ(result.exit_status, 0) << result.err;
    const Json json = Json::parse(result.out);
    for (const Json& answer : json["answers"]) all.push_back(answer["text"]);
    return all;
  }
  // Visual tokens of the first answer's prompt.
  static int visual_tokens(const ProgramResult& result) {
    return Json::parse(result.out)["answers"][0]["tokens"]["visual"];
  }
};

TEST_F(QwenVlRun, pictures_and_videos_have_the_tokens_of_their_size) {
  for (const char* family : {"qwen2_5_vl", "qwen2_vl"}) {
    SCOPED_TRACE(family);
    const Words ask = {"--prompt", "What is it?"};
    const auto with = [&](Words media) {
      media.insert(media.end(), ask.begin(), ask.end());
      return run(family, media);
    };
    EXPECT_EQ(visual_tokens(with({"--image", kGolden + "wide.npy"})), 18);
    EXPECT_EQ(visual_tokens(with({"--image", kGolden + "tall.npy"})), 10);
    EXPECT_EQ(visual_tokens(with({"--video", kGolden + "clip.npy"})), 36);
    EXPECT_EQ(visual_tokens(with({"--video", kGolden + "clip.npy", "--frames", "2"})), 12);
    EXPECT_EQ(visual_tokens(with({"--video", kGolden + "clip.npy", "--visual-tokens", "8"})),
              3 * 6);
  }
}

TEST_F(QwenVlRun, kept_media_give_the_same_answers) {
  const Words ask = {"--video",          kGolden + "clip.npy", "--prompt",
                     "How many frames?", "--prompt",           "What is in the scene?"};
  Words keep = ask;
  for (const std::string& word :
       {std::string("--nvme-budget"), std::string("32M"), std::string("--store"),
        folder_ / "kv.store", std::string("--keep-store")})
    keep.push_back(word);
  const auto without = texts(run("qwen2_5_vl", ask));
  EXPECT_EQ(without.size(), 2u);
  EXPECT_EQ(texts(run("qwen2_5_vl", keep)), without);
  const ProgramResult again = run("qwen2_5_vl", keep);
  EXPECT_NE(again.err.find("tokens from the store"), std::string::npos) << again.err;
  EXPECT_EQ(texts(again), without);
}

// 60 frames and 240: a third of what is added would be more than memory may grow by, whether the
// video is asked about once or several times. Holes in a file are black pixels.
TEST_F(QwenVlRun, memory_does_not_grow_with_the_length_of_a_video) {
  constexpr uint64_t kFrameBytes = 320 * 480 * 3;
  const auto peak_bytes = [&](int frames, const Words& more) {
    const std::string path = folder_ / (std::to_string(frames) + ".npy");
    std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (" +
                         std::to_string(frames) + ", 320, 480, 3), }";
    header.resize(118, ' ');
    std::ofstream(path, std::ios::binary)
        << std::string("\x93NUMPY\x01") + '\0' + 'v' + '\0' + header;
    std::filesystem::resize_file(path, 128 + static_cast<uint64_t>(frames) * kFrameBytes);
    Words words = {
        "run",         "--model", kGolden + "qwen2_5_vl", "--threads", "2",       "--prompt",
        "What is it?", "--json",  "--max-tokens",         "2",         "--video", path};
    words.insert(words.end(), more.begin(), more.end());
    // A sanitizer that keeps what is freed would show that.
    const ProgramResult result =
        Program(VKV_PROGRAM, words, {"ASAN_OPTIONS=quarantine_size_mb=1"}).wait();
    EXPECT_EQ(result.exit_status, 0) << result.err;
    EXPECT_EQ(visual_tokens(result), frames / 2 * 15);
    return result.peak_bytes;
  };
  for (const Words& more : {Words(), Words{"--prompt", "Why?"}}) {
    const uint64_t shorter = peak_bytes(60, more), longer = peak_bytes(240, more);
    std::printf("peak memory %llu and %llu MiB\n", static_cast<unsigned long long>(shorter >> 20),
                static_cast<unsigned long long>(longer >> 20));
    EXPECT_LT(longer, shorter + 180 * kFrameBytes / 3);
  }
}

TEST_F(QwenVlRun, what_cannot_be_is_one_line) {
  const ProgramResult fixed =
      Program(VKV_PROGRAM, {"run", "--model", kModel, "--image", kGolden + "wide.npy", "--prompt",
                            "a", "--visual-tokens", "6"})
          .wait();
  EXPECT_EQ(fixed.exit_status, 2);
  EXPECT_NE(fixed.err.find("pictures of this model have one size"), std::string::npos) << fixed.err;
  const ProgramResult less = run("qwen2_vl", {"--prompt", "a", "--visual-tokens", "-1"});
  EXPECT_EQ(less.exit_status, 2);
  EXPECT_NE(less.err.find("--visual-tokens must be 1 or more"), std::string::npos) << less.err;
}

}  // namespace
}  // namespace vkv
