// media_ffmpeg_absent.cpp: stands in for media_ffmpeg.cpp in builds without FFmpeg.
// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "tools/mllm/media_decoder.h"

namespace vkv {
namespace {

Status absent(const std::filesystem::path& path) {
  return {Code::kUnsupported,
          path.string() +
              ": cannot be decoded: this build has no FFmpeg; convert it to a .npy frame stack "
              "(uint8 [frames, height, width, 3]), or build with libavformat, libavcodec and "
              "libswscale installed"};
}

}  // namespace

Result<Image> decode_image(const std::filesystem::path& path) { return absent(path); }

Result<std::unique_ptr<VideoReader>> open_coded_video(const std::filesystem::path& path,
                                                      const VideoSampling&) {
  return absent(path);
}

std::string_view media_decoder_name() { return "none (.npy only)"; }

}  // namespace vkv
