// media_ffmpeg_test.cpp: with FFmpeg, pictures and videos decode to the right pixels.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/temporary_directory.h"
#include "tools/mllm/image_processor.h"
#include "tools/mllm/media.h"

namespace vkv {
namespace {

const std::string kGolden = VKV_SOURCE_DIR "/tests/golden/media/";

Image loaded(const std::string& name) {
  Result<Image> image = load_image(kGolden + name);
  EXPECT_TRUE(image.ok()) << image.status().message();
  return image.ok() ? std::move(image.value()) : Image{};
}

std::vector<Image> video(const std::string& name, const VideoSampling& sampling = {}) {
  Result<Video> loaded = load_video(kGolden + name, sampling);
  EXPECT_TRUE(loaded.ok()) << loaded.status().message();
  return loaded.ok() ? std::move(loaded.value().frames) : std::vector<Image>{};
}

int largest_difference(const Image& a, const Image& b) {
  if (a.width != b.width || a.height != b.height) return 256;
  int largest = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) {
    largest = std::max(largest, std::abs(a.rgb[i] - b.rgb[i]));
  }
  return largest;
}

// Frame `index` of the golden videos is flat but for its upper left corner, which is white.
void expect_frame(const Image& frame, int index, int tolerance) {
  ASSERT_EQ(frame.width, 48);
  ASSERT_EQ(frame.height, 32);
  const uint8_t* pixel = &frame.rgb[(20 * 48 + 30) * 3];
  EXPECT_NEAR(pixel[0], 20 * index + 20, tolerance) << index;
  EXPECT_NEAR(pixel[1], 240 - 20 * index, tolerance) << index;
  EXPECT_NEAR(pixel[2], 90, tolerance) << index;
}

void expect_error(const Status& status, Code code, const std::string& words) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
}

TEST(media_ffmpeg, lossless_pictures_are_exact) {
  const Image small = loaded("small.npy");
  for (const char* name : {"rgb.png", "rgb.bmp", "lossless.webp", "alpha.png"}) {
    EXPECT_EQ(largest_difference(loaded(name), small), 0) << name;
  }
  EXPECT_EQ(largest_difference(loaded("gray.png"), loaded("gray.npy")), 0);
  EXPECT_EQ(largest_difference(loaded("palette.png"), loaded("palette.npy")), 0);
}

TEST(media_ffmpeg, a_jpeg_is_within_two_levels_of_pillow) {
  EXPECT_LE(largest_difference(loaded("smooth.jpg"), loaded("smooth.npy")), 2);
}

TEST(media_ffmpeg, the_name_of_a_file_decides_nothing) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder / "a%03d*?.txt";
  std::filesystem::copy_file(kGolden + "rgb.png", path);
  Result<Image> image = load_image(path);
  ASSERT_TRUE(image.ok()) << image.status().message();
  EXPECT_EQ(largest_difference(image.value(), loaded("small.npy")), 0);
}

TEST(media_ffmpeg, every_frame_has_its_colour_whatever_matrix_and_range) {
  for (const char* name : {"h264_601.mp4", "h264_709.mkv", "full_range.mp4"}) {
    const std::vector<Image> frames = video(name);
    ASSERT_EQ(frames.size(), 10u) << name;
    for (int i = 0; i < 10; ++i) expect_frame(frames[static_cast<size_t>(i)], i, 4);
  }
}

TEST(media_ffmpeg, sampling_takes_the_right_frames) {
  const std::vector<Image> four = video("h264_601.mp4", {.frame_count = 4});
  ASSERT_EQ(four.size(), 4u);
  const int expected[] = {0, 2, 5, 7};
  for (size_t i = 0; i < 4; ++i) expect_frame(four[i], expected[i], 4);

  const std::vector<Image> slow = video("h264_709.mkv", {.fps = 1});
  ASSERT_EQ(slow.size(), 2u);
  expect_frame(slow[1], 5, 4);
}

TEST(media_ffmpeg, a_turned_video_comes_out_upright) {
  const Image frame = video("turned.mp4", {.frame_count = 1}).at(0);
  ASSERT_EQ(frame.width, 32);
  ASSERT_EQ(frame.height, 48);
  // The file asks for a counterclockwise quarter turn: the upper left corner ends lower left.
  EXPECT_GT(frame.rgb[static_cast<size_t>(44 * 32 + 3) * 3 + 2], 200);
  EXPECT_LT(frame.rgb[static_cast<size_t>(3 * 32 + 3) * 3 + 2], 120);
}

TEST(media_ffmpeg, a_video_is_no_image) {
  expect_error(load_image(kGolden + "h264_601.mp4").status(), Code::kInvalidArgument,
               "has 10 frames");
}

TEST(media_ffmpeg, a_file_without_pictures_is_named) {
  expect_error(load_video(kGolden + "sound_only.mkv", {}).status(), Code::kInvalidArgument,
               "no picture or video");
  expect_error(load_image(kGolden + "processors.json").status(), Code::kInvalidArgument,
               "processors.json");
}

TEST(media_ffmpeg, a_playlist_opens_no_other_file) {
  const TemporaryDirectory folder;
  const std::string path = folder / "list.m3u8";
  std::ofstream(path) << "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
                      << kGolden << "h264_601.mp4\n#EXT-X-ENDLIST\n";
  EXPECT_FALSE(load_video(path, {}).ok());
}

TEST(media_ffmpeg, a_file_cut_anywhere_is_an_error_and_never_a_shorter_video) {
  const TemporaryDirectory folder;
  for (const char* name :
       {"rgb.png", "smooth.jpg", "lossless.webp", "h264_601.mp4", "h264_709.mkv"}) {
    std::ifstream file(kGolden + name, std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    for (int tenth = 0; tenth < 10; ++tenth) {
      const std::string path = folder / "cut";
      std::ofstream(path, std::ios::binary)
          << bytes.substr(0, bytes.size() * static_cast<size_t>(tenth) / 10);
      // Without its index at the end, a Matroska file still has all of its frames.
      Result<Video> cut = load_video(path, {});
      if (cut.ok()) {
        EXPECT_EQ(name, std::string("h264_709.mkv"));
        EXPECT_EQ(cut.value().frames.size(), 10u);
      }
    }
  }
}

TEST(media_ffmpeg, a_picture_becomes_the_pixel_values_of_transformers) {
  const std::string tinyvlm = VKV_SOURCE_DIR "/tools/tinyvlm/golden/";
  std::ifstream file(tinyvlm + "random/cases/resized_image.safetensors", std::ios::binary);
  uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
  ASSERT_TRUE(file.good());
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const nlohmann::json tensor = nlohmann::json::parse(header)["pixel_values"];
  std::vector<float> expected(3 * 128 * 128);
  file.seekg(8 + static_cast<int64_t>(header_bytes) + tensor["data_offsets"][0].get<int64_t>());
  file.read(reinterpret_cast<char*>(expected.data()),
            static_cast<std::streamsize>(expected.size() * sizeof(float)));
  ASSERT_TRUE(file.good());

  Result<ImageProcessor> processor = ImageProcessor::load(tinyvlm + "random");
  Result<Image> image = load_image(tinyvlm + "images/large_320x240.png");
  ASSERT_TRUE(processor.ok() && image.ok());
  Result<std::vector<float>> values = processor.value().process(image.value());
  ASSERT_TRUE(values.ok());
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(values.value()[i], expected[i], 1e-6) << i;
}

}  // namespace
}  // namespace vkv
