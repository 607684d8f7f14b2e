// media_test.cpp: pictures and videos decode to the right pixels, and what cannot be is named.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/media.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include "tests/temporary_directory.h"
#include "tools/mllm/media_ahead.h"
#include "tools/mllm/media_source.h"
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

TEST(file_media, pieces_are_what_the_whole_video_becomes) {
  const std::string qwen = VKV_SOURCE_DIR "/tests/golden/qwen_vl/";
  const MediaFiles files = {.pictures = {qwen + "tall.npy", qwen + "wide.npy"},
                            .video = qwen + "clip.npy",
                            .sampling = {}};
  for (const std::string& folder :
       {qwen + "qwen2_vl", std::string(VKV_SOURCE_DIR "/tools/tinyvlm/golden/random")}) {
    const auto processor = MediaProcessor::load(folder);
    ASSERT_TRUE(processor.ok()) << processor.status().message();
    std::vector<VisualInput> whole;
    for (const auto& path : files.pictures)
      whole.push_back(processor.value().picture(load_image(path).value()).value());
    const auto frames = processor.value().video(load_video(files.video, {}).value()).value();
    whole.insert(whole.end(), frames.begin(), frames.end());
    std::vector<float> expected;
    for (const VisualInput& input : whole)
      expected.insert(expected.end(), input.values.begin(), input.values.end());

    for (const int64_t steps : {1, 2, 9}) {
      SCOPED_TRACE(testing::Message() << folder << " " << steps);
      auto opened =
          FileMedia::open(files, &processor.value(), [&](const VisualShape&) { return steps; }, {});
      ASSERT_TRUE(opened.ok()) << opened.status().message();
      EXPECT_EQ(opened.value()->frame_count(), 2 + 5);
      MediaAhead source(std::move(opened.value()), /*bytes_max=*/1);
      ASSERT_EQ(source.shapes().size(), whole.size());
      for (size_t i = 0; i < whole.size(); ++i) {
        EXPECT_EQ(source.shapes()[i].steps, whole[i].shape.steps);
        EXPECT_EQ(source.shapes()[i].height, whole[i].shape.height);
        EXPECT_EQ(source.shapes()[i].step_seconds, whole[i].shape.step_seconds);
      }
      std::vector<float> values;
      int64_t largest_piece = 0;
      while (true) {
        const auto piece = source.next({});
        ASSERT_TRUE(piece.ok()) << piece.status().message();
        if (piece.value().empty()) break;
        int64_t piece_steps = 0;
        for (const VisualInput& input : piece.value()) {
          values.insert(values.end(), input.values.begin(), input.values.end());
          piece_steps += input.shape.steps;
        }
        largest_piece = std::max(largest_piece, piece_steps);
      }
      EXPECT_EQ(values, expected);
      EXPECT_LE(largest_piece, steps);
    }
  }
}

TEST(file_media, errors_name_the_file) {
  const auto processor = MediaProcessor::load(VKV_SOURCE_DIR "/tests/golden/qwen_vl/qwen2_vl");
  const auto open = [&](const MediaFiles& files) {
    return FileMedia::open(files, &processor.value(), [](const VisualShape&) { return 1; }, {})
        .status();
  };
  expect_error(open({.pictures = {"/nowhere/x.png"}, .video = {}, .sampling = {}}), Code::kIo,
               "/nowhere/x.png: there is no such");
  expect_error(open({.pictures = {}, .video = "/nowhere/x.npy", .sampling = {}}), Code::kIo,
               "/nowhere/x.npy: there is no such");
}

// Pieces of 100 values until one is asked to stop; an error behind `count` of them.
class Endless : public MediaSource {
 public:
  Endless(int count, std::atomic<int>* made) : count_(count), made_(made) {}
  std::span<const VisualShape> shapes() const override { return {}; }
  Result<std::vector<VisualInput>> next(const Watch& watch) override {
    VKV_TRY(watch.check());
    if (*made_ == count_) return Status(Code::kDataLoss, "the file is cut");
    ++*made_;
    return std::vector<VisualInput>{{std::vector<float>(100), {}}};
  }

 private:
  const int count_;
  std::atomic<int>* const made_;
};

TEST(media_ahead, is_a_few_pieces_ahead_and_passes_errors_on) {
  std::atomic<int> made = 0;
  MediaAhead source(std::make_unique<Endless>(50, &made), /*bytes_max=*/4 * 400);
  for (int taken = 1; taken <= 50; ++taken) {
    EXPECT_TRUE(source.next({}).ok());
    EXPECT_LE(made, taken + 4);
  }
  EXPECT_EQ(source.next({}).status().code(), Code::kDataLoss);
  EXPECT_EQ(source.next({}).status().code(), Code::kDataLoss);
}

// Never gives anything, until it is told to stop.
class Stuck : public MediaSource {
 public:
  std::span<const VisualShape> shapes() const override { return {}; }
  Result<std::vector<VisualInput>> next(const Watch& watch) override {
    while (watch.check().ok()) std::this_thread::yield();
    return watch.check();
  }
};

TEST(media_ahead, stops_when_it_is_asked_to) {
  std::atomic<int> made = 0;
  { const MediaAhead unread(std::make_unique<Endless>(1000, &made), 400); }
  EXPECT_LE(made, 1);
  std::atomic<bool> stop = true;
  MediaAhead stuck(std::make_unique<Stuck>());
  EXPECT_EQ(stuck.next({.cancel = &stop}).status().code(), Code::kCancelled);
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
