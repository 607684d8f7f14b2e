// media_ffmpeg_absent_test.cpp: without FFmpeg, .npy works and the rest says what to do.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>

#include "tools/mllm/media.h"

namespace vkv {
namespace {

const std::string kGolden = VKV_SOURCE_DIR "/tests/golden/media/";

void expect_error(const Status& status) {
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("no FFmpeg; convert it to a .npy"), std::string::npos)
      << status.message();
}

TEST(media_ffmpeg_absent, the_error_says_what_to_do) {
  expect_error(load_image(kGolden + "rgb.png").status());
  expect_error(load_video(kGolden + "h264_601.mp4", {}).status());
  EXPECT_EQ(media_decoder_name(), "none (.npy only)");
}

TEST(media_ffmpeg_absent, frame_stacks_are_read) {
  EXPECT_TRUE(load_image(kGolden + "small.npy").ok());
  EXPECT_TRUE(load_video(kGolden + "small.npy", {}).ok());
}

}  // namespace
}  // namespace vkv
