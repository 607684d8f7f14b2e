// media_test.cpp: pictures and videos decode to the right pixels, and what cannot be is named.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/media.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/temporary_directory.h"
#include "tools/mllm/turn_image.h"

namespace vkv {
namespace {

const std::string kGolden = VKV_SOURCE_DIR "/tests/golden/media/";

std::vector<Image> video(const std::string& name, const VideoSampling& sampling = {}) {
  Result<Video> loaded = load_video(kGolden + name, sampling);
  EXPECT_TRUE(loaded.ok()) << loaded.status().message();
  return loaded.ok() ? std::move(loaded.value().frames) : std::vector<Image>{};
}

void expect_error(const Status& status, Code code, const std::string& words) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
}

std::vector<double> seconds_at(int count, double fps) {
  std::vector<double> seconds;
  for (int i = 0; i < count; ++i) seconds.push_back(3.5 + i / fps);
  return seconds;
}

using Indices = std::vector<int64_t>;

TEST(select_frames, without_sampling_every_frame_is_taken) {
  EXPECT_EQ(select_frames(seconds_at(3, 25), {}).value(), (Indices{0, 1, 2}));
}

TEST(select_frames, a_count_is_spread_evenly) {
  EXPECT_EQ(select_frames(seconds_at(10, 25), {.frame_count = 4}).value(), (Indices{0, 2, 5, 7}));
  EXPECT_EQ(select_frames(seconds_at(3, 25), {.frame_count = 9}).value(), (Indices{0, 1, 2}));
}

TEST(select_frames, a_rate_takes_the_nearest_frames_and_none_twice) {
  EXPECT_EQ(select_frames(seconds_at(10, 5), {.fps = 5}).value().size(), 10u);
  EXPECT_EQ(select_frames(seconds_at(10, 5), {.fps = 50}).value().size(), 10u);
  EXPECT_EQ(select_frames(seconds_at(10, 5), {.fps = 1}).value(), (Indices{0, 5}));
  EXPECT_EQ(select_frames(seconds_at(90, 30), {.fps = 1}).value(), (Indices{0, 30, 60}));
  EXPECT_EQ(select_frames(seconds_at(100, 29.97), {.fps = 0.001}).value(), (Indices{0}));
  // Frames at 0, 1.0, 1.1, 4.0: the ticks 0, 1, 2, 3, 4 are nearest to 0, 1.0, 1.1, 4.0, 4.0.
  EXPECT_EQ(select_frames(std::vector<double>{0, 1, 1.1, 4}, {.fps = 1}).value(),
            (Indices{0, 1, 2, 3}));
  EXPECT_EQ(select_frames(std::vector<double>{7}, {.fps = 2}).value(), (Indices{0}));
}

TEST(select_frames, senseless_sampling_is_refused) {
  const std::vector<double> seconds = seconds_at(3, 25);
  for (const VideoSampling& sampling :
       {VideoSampling{.fps = -1}, VideoSampling{.fps = NAN}, VideoSampling{.fps = INFINITY},
        VideoSampling{.frame_count = -2}, VideoSampling{.fps = 1, .frame_count = 1}}) {
    EXPECT_EQ(select_frames(seconds, sampling).status().code(), Code::kInvalidArgument);
  }
}

TEST(media, npy_stacks_are_videos_in_every_build) {
  EXPECT_EQ(video("small.npy").size(), 1u);
  const Status fps = load_video(kGolden + "small.npy", {.fps = 1}).status();
  expect_error(fps, Code::kInvalidArgument, "no frame rate");
}

TEST(media, a_stack_without_frames_is_an_error) {
  const TemporaryDirectory folder;
  const std::string path = folder / "none.npy";
  std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 4, 4, 3), }";
  header.resize(118, ' ');
  std::ofstream(path, std::ios::binary) << "\x93NUMPY\x01" << '\0' << 'v' << '\0' << header;
  expect_error(load_video(path, {}).status(), Code::kInvalidArgument, "zero frames");
  expect_error(load_image(path).status(), Code::kInvalidArgument, "has 0 frames");
}

TEST(media, a_missing_file_and_a_folder_are_named) {
  expect_error(load_image("/nowhere/x.png").status(), Code::kIo,
               "/nowhere/x.png: there is no such");
  expect_error(load_video("/nowhere/x.mp4", {}).status(), Code::kIo, "there is no such file");
  expect_error(load_image("/tmp").status(), Code::kIo, "not a regular file");
}

TEST(turn_image, quarter_turns_are_clockwise) {
  // 1 2 3      4 1      6 5 4      3 6
  // 4 5 6      5 2      3 2 1      2 5
  //            6 3                 1 4
  const auto levels = [](const std::vector<uint8_t>& values) {
    std::vector<uint8_t> rgb;
    for (const uint8_t value : values) rgb.insert(rgb.end(), 3, value);
    return rgb;
  };
  const Image image{3, 2, levels({1, 2, 3, 4, 5, 6})};
  EXPECT_EQ(turn_image(image, 0).rgb, image.rgb);
  EXPECT_EQ(turn_image(image, 1).rgb, levels({4, 1, 5, 2, 6, 3}));
  EXPECT_EQ(turn_image(image, 2).rgb, levels({6, 5, 4, 3, 2, 1}));
  EXPECT_EQ(turn_image(image, 3).rgb, levels({3, 6, 2, 5, 1, 4}));
  EXPECT_EQ(turn_image(image, 1).width, 2);
}

TEST(frame_rate, is_that_of_the_frames_taken) {
  EXPECT_NEAR(frame_rate(seconds_at(300, 30), 300), 30.0, 1e-9);
  EXPECT_NEAR(frame_rate(seconds_at(300, 30), 10), 1.0, 1e-9);  // ten of ten seconds
  EXPECT_EQ(frame_rate(seconds_at(1, 30), 1), 0.0);
  EXPECT_EQ(frame_rate(std::vector<double>{2, 2, 2}, 3), 0.0);
  EXPECT_EQ(load_video(kGolden + "small.npy", {}).value().frames_per_second, 0.0);
}

}  // namespace
}  // namespace vkv
