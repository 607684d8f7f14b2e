// media_processor.cpp: pictures and videos -> what the vision tower of a checkpoint takes.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/media_processor.h"

namespace vkv {
namespace {

// Of a stack of frames, which has no rate: what Qwen2.5-VL's own processor takes then.
constexpr double kFramesPerSecond = 2.0;

}  // namespace

Result<MediaProcessor> MediaProcessor::load(const std::filesystem::path& model_dir) {
  VKV_TRY_ASSIGN(settings, find_processor_settings(model_dir, SettingsOf::kPictures));
  MediaProcessor processor;
  const auto json = nlohmann::json::parse(settings.json_text, nullptr, false);
  const std::string type = json.is_object() ? processor_type(json) : "";
  VKV_TRY_ASSIGN(video_settings, find_processor_settings(model_dir, SettingsOf::kVideos));
  if (type == "LlavaOnevisionImageProcessor") {
    VKV_TRY_ASSIGN(tiles, TileProcessor::parse(settings));
    VKV_TRY_ASSIGN(tile_videos, TileProcessor::parse(video_settings));
    processor.tiles_ = std::move(tiles);
    processor.tile_videos_ = std::move(tile_videos);
    return processor;
  }
  if (type == "Qwen2VLImageProcessor") {
    VKV_TRY_ASSIGN(pictures, QwenProcessor::parse(settings, SettingsOf::kPictures));
    VKV_TRY_ASSIGN(videos, QwenProcessor::parse(video_settings, SettingsOf::kVideos));
    processor.pictures_ = std::move(pictures);
    processor.videos_ = std::move(videos);
    return processor;
  }
  VKV_TRY_ASSIGN(fixed, ImageProcessor::parse(settings.json_text, settings.where));
  processor.fixed_ = std::move(fixed);
  return processor;
}

Status MediaProcessor::limit_tokens(int64_t tokens) {
  if (tiles_)
    return {Code::kUnsupported, "how many tokens pictures of this model have is the checkpoint's"};
  if (!pictures_)
    return {Code::kUnsupported, "pictures of this model have one size, and always as many tokens"};
  pictures_->limit_tokens(tokens);
  videos_->limit_tokens(tokens);
  return {};
}

Result<VisualInput> MediaProcessor::picture(const Image& image, size_t picture_count) const {
  if (tiles_) return picture_count == 1 ? tiles_->tiles(image) : tiles_->square(image);
  if (pictures_) return pictures_->process({&image, 1});
  VKV_TRY_ASSIGN(values, fixed_->process(image));
  return VisualInput{.values = std::move(values), .shape = {}};
}

Result<std::vector<VisualShape>> MediaProcessor::video_shapes(const Image& frame,
                                                              int64_t frame_count,
                                                              double frames_per_second) const {
  if (tile_videos_)
    return std::vector<VisualShape>{{.is_video = true, .steps = static_cast<int>(frame_count)}};
  if (!videos_) return std::vector<VisualShape>(static_cast<size_t>(frame_count));
  VKV_TRY_ASSIGN(shape, videos_->shape(frame, frame_count));
  const double rate = frames_per_second > 0 ? frames_per_second : kFramesPerSecond;
  shape.step_seconds = videos_->temporal_patch() / rate;
  return std::vector<VisualShape>{shape};
}

Result<std::vector<VisualInput>> MediaProcessor::frames(std::span<const Image> frames) const {
  std::vector<VisualInput> inputs;
  if (tile_videos_ || videos_) {
    VKV_TRY_ASSIGN(input, videos_ ? videos_->process(frames) : tile_videos_->frames(frames));
    inputs.push_back(std::move(input));
    return inputs;
  }
  for (const Image& frame : frames) {
    VKV_TRY_ASSIGN(input, picture(frame));
    inputs.push_back(std::move(input));
  }
  return inputs;
}

Result<std::vector<VisualInput>> MediaProcessor::video(const Video& video) const {
  VKV_TRY_ASSIGN(inputs, frames(video.frames));
  if (inputs.empty()) return std::move(inputs);
  VKV_TRY_ASSIGN(shapes, video_shapes(video.frames[0], static_cast<int64_t>(video.frames.size()),
                                      video.frames_per_second));
  for (size_t i = 0; i < inputs.size(); ++i) inputs[i].shape = shapes[i];
  return std::move(inputs);
}

}  // namespace vkv
