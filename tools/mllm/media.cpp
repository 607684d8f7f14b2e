// media.cpp: .npy or FFmpeg, and which frames to take.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/media.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

#include "tools/mllm/media_decoder.h"
#include "tools/mllm/media_limits.h"
#include "tools/mllm/npy.h"

namespace vkv {
namespace {

Status check_sampling(const VideoSampling& sampling) {
  if (!std::isfinite(sampling.fps) || sampling.fps < 0) {
    return {Code::kInvalidArgument,
            fmt::format("fps is {}; it must be above 0, or 0 for every frame", sampling.fps)};
  }
  if (sampling.frame_count < 0) {
    return {Code::kInvalidArgument,
            fmt::format("the number of frames is {}; it must be above 0, or 0 for every frame",
                        sampling.frame_count)};
  }
  if (sampling.fps > 0 && sampling.frame_count > 0) {
    return {Code::kInvalidArgument, "frames are chosen by fps or by number, not by both"};
  }
  return {};
}

// By name or by content: what comes over a network has no name.
bool is_npy(const std::filesystem::path& path) {
  if (path.extension() == ".npy") return true;
  char magic[6] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof(magic));
  return std::string_view(magic, sizeof(magic)) == "\x93NUMPY";
}

Status check_exists(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::regular) return {};
  if (status.type() == std::filesystem::file_type::not_found) {
    return {Code::kIo, fmt::format("{}: there is no such file", path.string())};
  }
  return {Code::kIo, fmt::format("{}: is not a regular file", path.string())};
}

class NpyReader : public VideoReader {
 public:
  NpyReader(NpyStack stack, std::vector<int64_t> taken)
      : VideoReader(static_cast<int64_t>(taken.size()), 0),
        stack_(std::move(stack)),
        taken_(std::move(taken)) {}

  Result<Image> next() override {
    VKV_CHECK(next_ < taken_.size());
    return stack_.frame(taken_[next_++]);
  }

 private:
  const NpyStack stack_;
  const std::vector<int64_t> taken_;
  size_t next_ = 0;
};

Result<std::unique_ptr<VideoReader>> open_npy_video(const std::filesystem::path& path,
                                                    const VideoSampling& sampling) {
  VKV_TRY_ASSIGN(stack, NpyStack::open(path));
  if (stack.frame_count() == 0) {
    return Status(Code::kInvalidArgument, fmt::format("{}: has zero frames", path.string()));
  }
  if (sampling.fps > 0) {
    return Status(Code::kInvalidArgument,
                  fmt::format("{}: a .npy stack has no frame rate, so frames cannot be chosen by "
                              "fps; choose a number of frames",
                              path.string()));
  }
  std::vector<double> seconds(static_cast<size_t>(stack.frame_count()));
  for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = static_cast<double>(i);
  VKV_TRY_ASSIGN(indices, select_frames(seconds, sampling));
  return std::unique_ptr<VideoReader>(
      std::make_unique<NpyReader>(std::move(stack), std::move(indices)));
}

}  // namespace

Status check_image_size(std::string_view what, int64_t width, int64_t height) {
  if (width < 1 || height < 1) {
    return {Code::kInvalidArgument, fmt::format("{}: has no pixels: {} x {}", what, width, height)};
  }
  if (width > kImageEdgeMax || height > kImageEdgeMax || width * height > kImagePixelsMax) {
    return {Code::kInvalidArgument,
            fmt::format("{}: is {} x {} pixels; at most {} an edge and {} in all are decoded; "
                        "scale it down first",
                        what, width, height, kImageEdgeMax, kImagePixelsMax)};
  }
  return {};
}

Status check_video_size(std::string_view what, int64_t frame_count, int width, int height) {
  const uint64_t frame_bytes = static_cast<uint64_t>(width) * static_cast<uint64_t>(height) * 3;
  const uint64_t frames_max = kVideoBytesMax / frame_bytes;
  if (static_cast<uint64_t>(frame_count) <= frames_max) return {};
  return {Code::kOutOfMemory,
          fmt::format("{}: {} frames of {} x {} exceed {} GiB as RGB; take at most {} by choosing "
                      "a number of frames or a lower fps",
                      what, frame_count, width, height, kVideoBytesMax >> 30, frames_max)};
}

Result<std::vector<int64_t>> select_frames(std::span<const double> seconds,
                                           const VideoSampling& sampling) {
  VKV_TRY(check_sampling(sampling));
  const int64_t count = static_cast<int64_t>(seconds.size());
  std::vector<int64_t> indices;

  if (sampling.frame_count > 0) {
    const int64_t taken = std::min<int64_t>(sampling.frame_count, count);
    for (int64_t i = 0; i < taken; ++i) indices.push_back(i * count / taken);
    return indices;
  }
  if (sampling.fps == 0) {
    for (int64_t i = 0; i < count; ++i) indices.push_back(i);
    return indices;
  }
  // A frame is taken if it is the nearest to some multiple of 1/fps: if one lies between the
  // midpoints to its neighbours. A multiple on a midpoint goes to the later frame; the epsilon
  // keeps it there when the times were rounded.
  constexpr double kEpsilon = 1e-6;
  const auto tick = [&](int64_t i) {
    return (seconds[static_cast<size_t>(i)] - seconds[0]) * sampling.fps;
  };
  for (int64_t i = 0; i < count; ++i) {
    const double begin = i == 0 ? 0 : (tick(i - 1) + tick(i)) / 2;
    const double end = i + 1 == count ? tick(i) + kEpsilon : (tick(i) + tick(i + 1)) / 2 - kEpsilon;
    if (i == 0 || std::ceil(begin - kEpsilon) < end) indices.push_back(i);
  }
  return indices;
}

double frame_rate(std::span<const double> seconds, size_t taken) {
  if (seconds.size() < 2) return 0;
  const double between = seconds.back() - seconds.front();
  if (!(between > 0)) return 0;
  const auto count = static_cast<double>(seconds.size());
  return static_cast<double>(taken) / count * (count - 1) / between;
}

Result<Image> load_image(const std::filesystem::path& path) {
  VKV_TRY(check_exists(path));
  if (!is_npy(path)) return decode_image(path);
  VKV_TRY_ASSIGN(stack, NpyStack::open(path));
  if (stack.frame_count() != 1) {
    return Status(Code::kInvalidArgument,
                  fmt::format("{}: has {} frames; an image has one (give it as a video instead)",
                              path.string(), stack.frame_count()));
  }
  return stack.frame(0);
}

Result<std::unique_ptr<VideoReader>> open_video(const std::filesystem::path& path,
                                                const VideoSampling& sampling) {
  VKV_TRY(check_sampling(sampling));
  VKV_TRY(check_exists(path));
  return is_npy(path) ? open_npy_video(path, sampling) : open_coded_video(path, sampling);
}

Result<Video> load_video(const std::filesystem::path& path, const VideoSampling& sampling) {
  VKV_TRY_ASSIGN(reader, open_video(path, sampling));
  Video video{.frames = {}, .frames_per_second = reader->frames_per_second()};
  for (int64_t i = 0; i < reader->frame_count(); ++i) {
    VKV_TRY_ASSIGN(frame, reader->next());
    if (i == 0)
      VKV_TRY(check_video_size(path.string(), reader->frame_count(), frame.width, frame.height));
    video.frames.push_back(std::move(frame));
  }
  return video;
}

}  // namespace vkv
