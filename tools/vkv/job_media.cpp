// job_media.cpp: the pictures and videos of a job, ready for the vision tower.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/job_media.h"

#include <fmt/format.h>

#include <iterator>
#include <utility>

#include "tools/mllm/media.h"

namespace vkv {
namespace {

Status with_path(const std::string& path, const Status& status) {
  return {status.code(), fmt::format("{}: {}", path, status.message())};
}

Status check_fits(const MediaProcessor& processor, const std::string& folder,
                  const VisionConfig& vision) {
  const auto differ = [&](const std::string& what) {
    return Status(Code::kInvalidArgument,
                  fmt::format("{}: {}: they are of different checkpoints", folder, what));
  };
  if ((processor.qwen() != nullptr) != vision.is_qwen())
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
  const ImageProcessor& fixed = *processor.fixed();
  const int edge = vision.image_edge;
  if (fixed.height() == edge && fixed.width() == edge) return {};
  return differ(
      fmt::format("the processor makes pictures of {} x {}, the vision tower takes {} x "
                  "{}",
                  fixed.width(), fixed.height(), edge, edge));
}

}  // namespace

Result<MediaProcessor> load_media_processor(const std::string& folder, const ModelConfig& config) {
  VKV_TRY_ASSIGN(processor, MediaProcessor::load(folder));
  VKV_TRY(check_fits(processor, folder, config.vision));
  return processor;
}

Result<JobMedia> load_job_media(const Job& job, const MediaProcessor& processor,
                                const Watch& watch) {
  JobMedia media;
  for (const std::string& path : job.images) {
    VKV_TRY(watch.check());
    VKV_TRY_ASSIGN(image, load_image(job.folder / path));
    Result<VisualInput> input = processor.picture(image);
    if (!input.ok()) return with_path(path, input.status());
    media.inputs.push_back(std::move(input.value()));
    watch.report(static_cast<uint64_t>(++media.frame_count), 0);
  }
  if (!job.video.empty()) {
    VKV_TRY(watch.check());
    VKV_TRY_ASSIGN(video, load_video(job.folder / job.video, job.video_sampling));
    media.frame_count += static_cast<int>(video.frames.size());
    Result<std::vector<VisualInput>> inputs = processor.video(video);
    if (!inputs.ok()) return with_path(job.video, inputs.status());
    std::move(inputs.value().begin(), inputs.value().end(), std::back_inserter(media.inputs));
    watch.report(static_cast<uint64_t>(media.frame_count), 0);
  }
  return media;
}

std::string media_group(const Job& job, int frame_count) {
  if (!job.group.empty()) return job.group;
  if (frame_count == 0) return "text";
  if (!job.video.empty()) return fmt::format("video-{}", frame_count);
  return frame_count == 1 ? "image" : fmt::format("images-{}", frame_count);
}

}  // namespace vkv
