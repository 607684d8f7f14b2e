// tile_processor.h: LLaVA-OneVision: pictures and frames -> tiles of the vision tower's size.
// SPDX-License-Identifier: Apache-2.0
//
// LlavaOnevisionImageProcessor and LlavaOnevisionVideoProcessor as transformers 5 runs them.
#pragma once

#include <span>
#include <vector>

#include "tools/mllm/image.h"
#include "tools/mllm/processor_fields.h"
#include "tools/mllm/processor_settings.h"
#include "tools/mllm/qwen_processor.h"
#include "tools/mllm/visual_input.h"
#include "vkv/status.h"

namespace vkv {

// The size in which most of a picture's pixels survive, and of those the one with the least
// padding; the first of equals. `sizes`: at least one.
PixelSize best_resolution(PixelSize picture, std::span<const PixelSize> sizes);

// Immutable; any thread may call.
class TileProcessor {
 public:
  // Errors: kInvalidArgument (a field that makes no sense, by name), kUnsupported (resampling).
  static Result<TileProcessor> parse(const ProcessorSettings& settings);

  // A picture that stands alone in its prompt: the whole of it, squeezed into a square, and tiles
  // of it at its best resolution, padded with black. Errors: kInvalidArgument for a picture without
  // pixels, or beyond the limits of media_limits.h.
  Result<VisualInput> tiles(const Image& image) const;
  // One of several: padded to a square. The same errors.
  Result<VisualInput> square(const Image& image) const;
  // Of a video, squeezed into squares; at least one. The same errors.
  Result<VisualInput> frames(std::span<const Image> frames) const;

  int edge() const { return edge_; }  // of a tile, pixels

 private:
  TileProcessor() = default;
  void append(const Image& image, int top, int left, std::vector<float>& values) const;

  int edge_ = 0;
  std::vector<PixelSize> sizes_;  // multiples of edge_
  Resample resample_ = Resample::kBicubic;
  PixelScale scale_;
  std::array<uint8_t, 3> background_ = {};  // of square()
};

}  // namespace vkv
