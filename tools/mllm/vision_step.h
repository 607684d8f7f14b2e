// vision_step.h: how the patches of a picture stand in Qwen's vision tower, and who sees whom.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "tools/mllm/model_config.h"
#include "tools/mllm/rope.h"

namespace vkv {

inline constexpr double kQwenVisionTheta = 10000.0;  // of the tower's RoPE

// One step in time of a picture or video; nothing in the tower goes across steps. With windows the
// patches stand window by window, those of one token together, and windows of the same number of
// patches one behind the other.
struct VisionStep {
  struct Run {  // of windows of the same size
    int64_t first_row = 0;
    int64_t parts = 0;
    int64_t positions = 0;  // of a window
  };

  std::vector<int32_t> token_order;     // [tokens]: which token, counted row by row, stands where
  std::vector<Run> windows;             // all patches; one part if there are no windows
  std::vector<RopePosition> positions;  // [patches], as they stand; row and column of the patch

  int64_t rows() const { return static_cast<int64_t>(positions.size()); }
};

// `height` and `width` in patches, multiples of merge_edge. Source: Bai et al. 2025, "Qwen2.5-VL
// Technical Report", section 2.1.1.
VisionStep vision_step(const VisionConfig& vision, int height, int width);

// Whether attention of this layer stays inside windows.
bool has_windows(const VisionConfig& vision, int layer);

}  // namespace vkv
