// media_limits.h: how large a picture, and all frames of a video together, may be.
// SPDX-License-Identifier: Apache-2.0
//
// Sizes come from untrusted headers, so they are checked before memory is asked for.
#pragma once

#include <cstdint>
#include <string_view>

#include "vkv/status.h"

namespace vkv {

inline constexpr int64_t kImageEdgeMax = 32768;                // pixels
inline constexpr int64_t kImagePixelsMax = int64_t{1} << 26;   // 192 MiB as RGB
inline constexpr uint64_t kVideoBytesMax = uint64_t{4} << 30;  // of the frames kept, as RGB

// Errors: kInvalidArgument for a picture without pixels or beyond the limits; `what` names it.
Status check_image_size(std::string_view what, int64_t width, int64_t height);

// Errors: kOutOfMemory, saying how to take fewer frames.
Status check_video_size(std::string_view what, int64_t frame_count, int width, int height);

}  // namespace vkv
