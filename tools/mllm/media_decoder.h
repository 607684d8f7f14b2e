// media_decoder.h: what media.cpp asks of FFmpeg; media_ffmpeg.cpp or media_ffmpeg_absent.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>

#include "tools/mllm/image.h"
#include "tools/mllm/media.h"
#include "vkv/status.h"

namespace vkv {

// As load_image and open_video, for files that are not .npy.
Result<Image> decode_image(const std::filesystem::path& path);
Result<std::unique_ptr<VideoReader>> open_coded_video(const std::filesystem::path& path,
                                                      const VideoSampling& sampling);

}  // namespace vkv
