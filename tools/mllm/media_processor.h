// media_processor.h: pictures and videos -> what the vision tower of a checkpoint takes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "tools/mllm/image_processor.h"
#include "tools/mllm/media.h"
#include "tools/mllm/qwen_processor.h"
#include "tools/mllm/tile_processor.h"
#include "tools/mllm/visual_input.h"

namespace vkv {

// Of the processor that a checkpoint names. Immutable; any thread may call.
class MediaProcessor {
 public:
  // Errors: those of find_processor_settings, and of parse() of the three.
  static Result<MediaProcessor> load(const std::filesystem::path& model_dir);

  // picture_count: of the prompt; LLaVA-OneVision cuts only one that stands alone into tiles.
  // Errors: those of ImageProcessor::process, QwenProcessor::process and TileProcessor.
  Result<VisualInput> picture(const Image& image, size_t picture_count = 1) const;
  // Frames that go through the tower as pictures are one each, others one together.
  Result<std::vector<VisualInput>> video(const Video& video) const;

  // The same in pieces: what a video of so many frames of this one's size becomes, and what some of
  // its frames do: as many as a step has, or a multiple; the last ones may be fewer.
  // frames_per_second: 0 if it is not known.
  Result<std::vector<VisualShape>> video_shapes(const Image& frame, int64_t frame_count,
                                                double frames_per_second) const;
  Result<std::vector<VisualInput>> frames(std::span<const Image> frames) const;
  int frames_per_step() const { return videos_ ? videos_->temporal_patch() : 1; }

  // See QwenProcessor::limit_tokens. Errors: kUnsupported where pictures have one size.
  Status limit_tokens(int64_t tokens);

  // Of pictures of one size; null where they have any.
  const ImageProcessor* fixed() const { return fixed_ ? &*fixed_ : nullptr; }
  // Of Qwen's; else null.
  const QwenProcessor* qwen() const { return pictures_ ? &*pictures_ : nullptr; }
  // Of LLaVA-OneVision's; else null.
  const TileProcessor* tiles() const { return tiles_ ? &*tiles_ : nullptr; }

 private:
  MediaProcessor() = default;

  std::optional<ImageProcessor> fixed_;
  std::optional<QwenProcessor> pictures_, videos_;
  std::optional<TileProcessor> tiles_, tile_videos_;
};

}  // namespace vkv
