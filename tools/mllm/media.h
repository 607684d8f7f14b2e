// media.h: pictures and videos from files.
// SPDX-License-Identifier: Apache-2.0
//
// Built with FFmpeg's libraries: whatever they decode (PNG, JPEG, WebP, GIF, BMP, MP4, MKV, WebM,
// AVI, ...), told apart by content and not by name. Built without: .npy frame stacks only. A .npy
// file (npy.h) works in both.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "tools/mllm/image.h"
#include "vkv/status.h"

namespace vkv {

// Which frames of a video to take: at most one of the two; both 0: every frame.
struct VideoSampling {
  double fps = 0;       // the frame nearest to each multiple of 1/fps seconds, none twice
  int frame_count = 0;  // so many, evenly spaced from the first; all when the video has fewer
};

// A video that is read frame by frame, so that memory does not grow with its length. Not
// thread-safe.
class VideoReader {
 public:
  // frames_per_second: of those taken, on average; 0: the file has no times.
  VideoReader(int64_t frame_count, double frames_per_second)
      : frame_count_(frame_count), frames_per_second_(frames_per_second) {}
  virtual ~VideoReader() = default;

  int64_t frame_count() const { return frame_count_; }  // that are taken; at least 1
  double frames_per_second() const { return frames_per_second_; }

  // The next of the frames taken, in the order of presentation; called at most frame_count() times,
  // and no more after an error. Errors: those of load_video but for its limit.
  virtual Result<Image> next() = 0;

 private:
  const int64_t frame_count_;
  const double frames_per_second_;
};

struct Video {
  std::vector<Image> frames;
  double frames_per_second = 0;  // of those taken, on average; 0: the file has no times
};

// The picture of a file, 8-bit RGB; alpha is dropped, as Pillow's convert("RGB") does.
// Errors: kIo (cannot be opened), kInvalidArgument (no picture, or a video), kDataLoss (damaged or
// truncated), kUnsupported (needs FFmpeg and this build has none).
Result<Image> load_image(const std::filesystem::path& path);

// Which frames there are is known when it returns; none is decoded yet. Frames are turned upright
// as the file says; those not taken are never converted or kept. Errors: as load_image; also
// kInvalidArgument for a video without frames or a sampling that makes no sense.
Result<std::unique_ptr<VideoReader>> open_video(const std::filesystem::path& path,
                                                const VideoSampling& sampling);

// All of open_video's frames at once. Errors: also kOutOfMemory when they exceed 4 GiB.
Result<Video> load_video(const std::filesystem::path& path, const VideoSampling& sampling);

// Indices of the frames to take, ascending. `seconds` [frames] ascending times of presentation.
// Errors: kInvalidArgument for both fields set, a negative one, or one that is not finite.
Result<std::vector<int64_t>> select_frames(std::span<const double> seconds,
                                           const VideoSampling& sampling);

// What `taken` of all frames are a second; 0 if there is one time only. `seconds` as above.
double frame_rate(std::span<const double> seconds, size_t taken);

// "FFmpeg 5.1" or "none (.npy only)".
std::string_view media_decoder_name();

}  // namespace vkv
