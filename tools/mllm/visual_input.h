// visual_input.h: what an image processor makes of a picture or a video, for the vision tower.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

namespace vkv {

// What decides how many tokens a picture, a frame or a video becomes, and where RoPE puts them.
// A tower of pictures of one size needs none of it: each frame of a video is a picture to it.
struct VisualShape {
  bool is_video = false;
  int steps = 1;            // in time; Qwen: pairs of frames
  int height = 0;           // of a step, in patches; of a picture in tiles, its own pixels
  int width = 0;            // the same
  double step_seconds = 0;  // between two steps of a video
  int tile_rows = 0;        // LLaVA-OneVision: of a picture that is cut into tiles
  int tile_columns = 0;     // the same
  bool ends = true;         // false: steps of a video that goes on in the next piece
};

struct VisualInput {
  // Pictures of one size: [3, image_edge, image_edge], normalised.
  // Qwen: [steps, height / merge, width / merge, merge, merge, 3, temporal_patch, patch, patch]:
  // patches, those that become one token beside each other.
  // LLaVA-OneVision: [tile_count(shape), 3, image_edge, image_edge]; see tile_packing.h.
  std::vector<float> values;
  VisualShape shape;
};

}  // namespace vkv
