// qwen_processor.h: pictures and pairs of frames -> the patches that Qwen's vision tower takes.
// SPDX-License-Identifier: Apache-2.0
//
// Qwen2VLImageProcessor and Qwen2VLVideoProcessor as transformers 5 runs them: resize to a multiple
// of the patches that become one token, within limits of pixels; rescale, normalise, cut.
#pragma once

#include <array>
#include <span>
#include <string>

#include "tools/mllm/image.h"
#include "tools/mllm/processor_fields.h"
#include "tools/mllm/processor_settings.h"
#include "tools/mllm/visual_input.h"
#include "vkv/status.h"

namespace vkv {

struct PixelSize {
  int64_t height = 0;
  int64_t width = 0;
  bool operator==(const PixelSize&) const = default;
};

// Both edges become multiples of `factor`, and their product is between the limits where such
// multiples of nearly the same aspect ratio are. Errors: kInvalidArgument for a picture more than
// 200 times as long as wide. Source: Wang et al. 2024, "Qwen2-VL", section 2.1.
Result<PixelSize> smart_resize(PixelSize size, int factor, int64_t pixels_min, int64_t pixels_max);

// Immutable; any thread may call.
class QwenProcessor {
 public:
  // Errors: kInvalidArgument (a field that makes no sense, by name), kUnsupported (resampling).
  static Result<QwenProcessor> parse(const ProcessorSettings& settings, SettingsOf what);

  // A picture, or frames of one size that are one video; the last frame stands for those that its
  // last step lacks. step_seconds is left 0. Errors: kInvalidArgument for a picture
  // without pixels, too long for its width, or beyond the limits of media_limits.h; for no frames
  // and for frames of different sizes.
  Result<VisualInput> process(std::span<const Image> frames) const;

  // What process() would give `frame_count` frames of the size of `frame`; the same errors.
  Result<VisualShape> shape(const Image& frame, int64_t frame_count) const;

  // Fewer pixels than the checkpoint has, so that a picture or step becomes at most `tokens`
  // tokens, but for pictures of one token's height or width that are longer. tokens >= 1.
  void limit_tokens(int64_t tokens);

  int patch_edge() const { return patch_edge_; }
  int merge_edge() const { return merge_edge_; }
  int temporal_patch() const { return temporal_patch_; }

 private:
  QwenProcessor() = default;
  // The patches of one step: `frames` are temporal_patch_ pictures of the final size.
  void append_step(std::span<const Image* const> frames, std::vector<float>& values) const;

  SettingsOf of_ = SettingsOf::kPictures;
  bool do_resize_ = true;
  int64_t pixels_min_ = 0;
  int64_t pixels_max_ = 0;
  int patch_edge_ = 0;  // pixels
  int merge_edge_ = 0;  // patches
  int temporal_patch_ = 0;
  Resample resample_ = Resample::kBicubic;
  PixelScale scale_;
};

}  // namespace vkv
