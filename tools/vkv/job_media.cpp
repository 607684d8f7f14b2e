// job_media.cpp: the pictures and videos of a job, ready for the vision tower.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/job_media.h"

#include <fmt/format.h>

namespace vkv {
namespace {

Status check_fits(const MediaProcessor& processor, const std::string& folder,
                  const ModelConfig& config) {
  const VisionConfig& vision = config.vision;
  const auto differ = [&](const std::string& what) {
    return Status(Code::kInvalidArgument,
                  fmt::format("{}: {}: they are of different checkpoints", folder, what));
  };
  if ((processor.qwen() != nullptr) != vision.is_qwen() ||
      (processor.tiles() != nullptr) != config.packs_tiles())
    return differ("the image processor and the vision tower are of different families");
  if (const QwenProcessor* qwen = processor.qwen()) {
    if (qwen->patch_edge() == vision.patch_edge && qwen->merge_edge() == vision.merge_edge &&
        qwen->temporal_patch() == vision.temporal_patch)
      return {};
    return differ(
        fmt::format("the processor makes patches of {} x {} pixels, {} frames and {} x "
                    "{} to a token, the vision tower takes {} x {}, {} and {} x {}",
                    qwen->patch_edge(), qwen->patch_edge(), qwen->temporal_patch(),
                    qwen->merge_edge(), qwen->merge_edge(), vision.patch_edge, vision.patch_edge,
                    vision.temporal_patch, vision.merge_edge, vision.merge_edge));
  }
  const TileProcessor* const tiles = processor.tiles();
  const int height = tiles != nullptr ? tiles->edge() : processor.fixed()->height();
  const int width = tiles != nullptr ? tiles->edge() : processor.fixed()->width();
  const int edge = vision.image_edge;
  if (height == edge && width == edge) return {};
  return differ(
      fmt::format("the processor makes pictures of {} x {}, the vision tower takes {} x "
                  "{}",
                  width, height, edge, edge));
}

}  // namespace

Result<MediaProcessor> load_media_processor(const std::string& folder, const ModelConfig& config) {
  VKV_TRY_ASSIGN(processor, MediaProcessor::load(folder));
  VKV_TRY(check_fits(processor, folder, config));
  return processor;
}

MediaFiles job_files(const Job& job) {
  MediaFiles files{.pictures = {}, .video = {}, .sampling = job.video_sampling};
  for (const std::string& path : job.images) files.pictures.push_back(job.folder / path);
  if (!job.video.empty()) files.video = job.folder / job.video;
  return files;
}

Result<std::unique_ptr<FileMedia>> open_job_media(const Job& job, const MediaProcessor& processor,
                                                  const Model& model, const Watch& watch) {
  return FileMedia::open(
      job_files(job), &processor,
      [&model](const VisualShape& shape) { return model.steps_per_pass(shape); }, watch);
}

std::string media_group(const Job& job, int64_t frame_count) {
  if (!job.group.empty()) return job.group;
  if (frame_count == 0) return "text";
  if (!job.video.empty()) return fmt::format("video-{}", frame_count);
  return frame_count == 1 ? "image" : fmt::format("images-{}", frame_count);
}

}  // namespace vkv
