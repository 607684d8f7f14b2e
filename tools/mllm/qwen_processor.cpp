// qwen_processor.cpp: the processor's settings and its arithmetic.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/qwen_processor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tools/mllm/media_limits.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

constexpr double kAspectMax = 200;

// Where the settings are silent (transformers 5.17, models/qwen2_vl): of pictures and of videos.
constexpr int64_t kPixelsMin[] = {56 * 56, 128 * 28 * 28};
constexpr int64_t kPixelsMax[] = {1280 * 28 * 28, 768 * 28 * 28};

// Half to even, as Python rounds.
int64_t rounded(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

int64_t pixel_limit(ProcessorFields& fields, const char* name, const char* size_name,
                    int64_t otherwise) {
  double limit = static_cast<double>(otherwise);
  if (const Json* size = fields.find("size"); size != nullptr && size->is_object()) {
    ProcessorFields inner{*size, fields.where, {}};
    limit = inner.positive(name, inner.positive(size_name, limit));
    if (!inner.status.ok() && fields.status.ok()) fields.status = inner.status;
  }
  limit = fields.positive(name, limit);  // older files; it wins in transformers too
  return static_cast<int64_t>(std::min(limit, static_cast<double>(kImagePixelsMax)));
}

int small_count(ProcessorFields& fields, const char* name, int otherwise) {
  const double value = fields.positive(name, otherwise);
  if (value == std::floor(value) && value <= 1024) return static_cast<int>(value);
  fields.refuse(name, "must be a whole number up to 1024");
  return otherwise;
}

}  // namespace

Result<PixelSize> smart_resize(PixelSize size, int factor, int64_t pixels_min, int64_t pixels_max) {
  const auto height = static_cast<double>(size.height), width = static_cast<double>(size.width);
  if (std::max(height, width) / std::min(height, width) > kAspectMax)
    return Status(Code::kInvalidArgument,
                  fmt::format("the picture has {} x {} pixels; one edge may be up to {} times the "
                              "other",
                              size.width, size.height, kAspectMax));
  PixelSize result = {rounded(height / factor) * factor, rounded(width / factor) * factor};
  const int64_t pixels = result.height * result.width;
  if (pixels > pixels_max) {
    const double shrink = std::sqrt(height * width / static_cast<double>(pixels_max));
    const auto less = [&](double edge) {
      return std::max<int64_t>(factor,
                               static_cast<int64_t>(std::floor(edge / shrink / factor)) * factor);
    };
    result = {less(height), less(width)};
  } else if (pixels < pixels_min) {
    const double grow = std::sqrt(static_cast<double>(pixels_min) / (height * width));
    const auto more = [&](double edge) {
      return static_cast<int64_t>(std::ceil(edge * grow / factor)) * factor;
    };
    result = {more(height), more(width)};
  }
  return result;
}

Result<QwenProcessor> QwenProcessor::parse(const ProcessorSettings& settings, SettingsOf what) {
  const Json json = Json::parse(settings.json_text, nullptr, false);
  if (!json.is_object())
    return Status(Code::kInvalidArgument, settings.where + ": is not a JSON object");
  const bool of_videos = what == SettingsOf::kVideos;
  ProcessorFields fields{json, settings.where, {}};
  QwenProcessor processor;
  processor.of_ = what;
  processor.do_resize_ = fields.boolean("do_resize", true);
  processor.pixels_min_ = pixel_limit(fields, "min_pixels", "shortest_edge", kPixelsMin[of_videos]);
  processor.pixels_max_ = pixel_limit(fields, "max_pixels", "longest_edge", kPixelsMax[of_videos]);
  if (processor.pixels_min_ > processor.pixels_max_)
    fields.refuse("min_pixels", "is more than max_pixels");
  processor.patch_edge_ = small_count(fields, "patch_size", 14);
  processor.merge_edge_ = small_count(fields, "merge_size", 2);
  processor.temporal_patch_ = small_count(fields, "temporal_patch_size", 2);
  processor.resample_ = read_resample(fields);
  processor.scale_ = PixelScale::read(fields, kClipMean, kClipDeviation);
  if (!fields.status.ok()) return fields.status;
  return processor;
}

void QwenProcessor::limit_tokens(int64_t tokens) {
  VKV_CHECK(tokens >= 1);
  const int64_t edge = int64_t{patch_edge_} * merge_edge_;
  pixels_max_ = std::min(pixels_max_, tokens * edge * edge);
  pixels_min_ = std::min(pixels_min_, pixels_max_);
}

void QwenProcessor::append_step(std::span<const Image* const> frames,
                                std::vector<float>& values) const {
  const int edge = patch_edge_, merge = merge_edge_;
  const Image& first = *frames[0];
  // Grey levels are whole numbers: each has its value.
  std::array<std::array<float, 256>, 3> value_of;
  for (size_t channel = 0; channel < 3; ++channel)
    for (size_t level = 0; level < 256; ++level)
      value_of[channel][level] = scale_.value(static_cast<float>(level), channel);

  const auto append_patch = [&](int top, int left) {
    for (size_t channel = 0; channel < 3; ++channel)
      for (const Image* frame : frames)
        for (int y = top; y < top + edge; ++y) {
          const auto pixel = static_cast<size_t>(y) * static_cast<size_t>(frame->width) +
                             static_cast<size_t>(left);
          const uint8_t* level = &frame->rgb[pixel * 3 + channel];
          for (int x = 0; x < edge; ++x, level += 3) values.push_back(value_of[channel][*level]);
        }
  };
  const int token_edge = edge * merge;
  for (int top = 0; top < first.height; top += token_edge)
    for (int left = 0; left < first.width; left += token_edge)
      for (int y = 0; y < merge; ++y)
        for (int x = 0; x < merge; ++x) append_patch(top + y * edge, left + x * edge);
}

Result<VisualShape> QwenProcessor::shape(const Image& frame, int64_t frame_count) const {
  if (frame_count < 1) return Status(Code::kInvalidArgument, "the video has no frames");
  VKV_TRY(check_image_size("the picture", frame.width, frame.height));
  PixelSize size = {frame.height, frame.width};
  const int factor = patch_edge_ * merge_edge_;
  if (do_resize_) {
    VKV_TRY_ASSIGN(resized, smart_resize(size, factor, pixels_min_, pixels_max_));
    size = resized;
  }
  VKV_TRY(check_image_size("the resized picture", size.width, size.height));
  if (size.height % factor != 0 || size.width % factor != 0)
    return Status(Code::kInvalidArgument,
                  fmt::format("the picture has {} x {} pixels, and is not resized; it must have "
                              "multiples of {}",
                              size.width, size.height, factor));
  return VisualShape{
      .is_video = of_ == SettingsOf::kVideos,
      .steps = static_cast<int>((frame_count + temporal_patch_ - 1) / temporal_patch_),
      .height = static_cast<int>(size.height / patch_edge_),
      .width = static_cast<int>(size.width / patch_edge_)};
}

Result<VisualInput> QwenProcessor::process(std::span<const Image> frames) const {
  if (frames.empty()) return Status(Code::kInvalidArgument, "the video has no frames");
  const Image& first = frames[0];
  VKV_TRY_ASSIGN(shape, this->shape(first, static_cast<int64_t>(frames.size())));
  const int height = shape.height * patch_edge_, width = shape.width * patch_edge_;
  VisualInput input{.values = {}, .shape = shape};
  const auto per_step = static_cast<size_t>(temporal_patch_);
  input.values.reserve(static_cast<size_t>(shape.steps) * per_step * 3 *
                       static_cast<size_t>(height) * static_cast<size_t>(width));
  for (size_t begin = 0; begin < frames.size(); begin += per_step) {
    std::vector<Image> resized;
    for (size_t i = begin; i < std::min(frames.size(), begin + per_step); ++i) {
      const Image& frame = frames[i];
      if (frame.width != first.width || frame.height != first.height)
        return Status(Code::kInvalidArgument, "the frames of the video have different sizes");
      resized.push_back(resize(frame, width, height, resample_));
    }
    // A picture is all frames of its one step; so is the last frame of an odd number.
    std::vector<const Image*> step;
    for (size_t i = 0; i < per_step; ++i) step.push_back(&resized[std::min(i, resized.size() - 1)]);
    append_step(step, input.values);
  }
  return input;
}

}  // namespace vkv
