// media_source.cpp: pictures and videos as the vision tower takes them, piece by piece.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/media_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace vkv {
namespace {

Status with_path(const std::filesystem::path& path, const Status& status) {
  return {status.code(), fmt::format("{}: {}", path.string(), status.message())};
}

}  // namespace

Result<std::unique_ptr<FileMedia>> FileMedia::open(const MediaFiles& files,
                                                   const MediaProcessor* processor,
                                                   PieceSteps piece_steps, const Watch& watch) {
  std::unique_ptr<FileMedia> media(new FileMedia(processor, std::move(piece_steps)));
  VKV_TRY(media->open_pictures(files, watch));
  if (!files.video.empty()) VKV_TRY(media->open_frames(files));
  return media;
}

Status FileMedia::open_pictures(const MediaFiles& files, const Watch& watch) {
  for (const std::filesystem::path& path : files.pictures) {
    VKV_TRY(watch.check());
    VKV_TRY_ASSIGN(image, load_image(path));
    Result<VisualInput> input = processor_->picture(image, files.pictures.size());
    if (!input.ok()) return with_path(path, input.status());
    shapes_.push_back(input.value().shape);
    pictures_.push_back(std::move(input.value()));
    watch.report(static_cast<uint64_t>(++frame_count_), files.pictures.size());
  }
  return {};
}

Status FileMedia::open_frames(const MediaFiles& files) {
  video_ = files.video;
  VKV_TRY_ASSIGN(reader, open_video(files.video, files.sampling));
  VKV_TRY_ASSIGN(first, reader->next());
  auto shapes = processor_->video_shapes(first, reader->frame_count(), reader->frames_per_second());
  if (!shapes.ok()) return with_path(video_, shapes.status());
  std::ranges::copy(shapes.value(), std::back_inserter(shapes_));
  frames_left_ = reader->frame_count();
  frame_count_ += frames_left_;
  frame_width_ = first.width;
  frame_height_ = first.height;
  first_frame_ = std::move(first);
  reader_ = std::move(reader);
  return {};
}

Result<Image> FileMedia::next_frame() {
  --frames_left_;
  if (first_frame_) return *std::exchange(first_frame_, std::nullopt);
  VKV_TRY_ASSIGN(frame, reader_->next());
  if (frame.width != frame_width_ || frame.height != frame_height_)
    return with_path(video_, {Code::kInvalidArgument, "its frames have different sizes"});
  return std::move(frame);
}

Result<std::vector<VisualInput>> FileMedia::next(const Watch& watch) {
  std::vector<VisualInput> piece;
  if (shapes_.empty()) return piece;
  // Where pictures have any size, each goes through the tower alone; else frames are pictures too.
  const bool alike = processor_->fixed() != nullptr;
  const int64_t steps = std::max<int64_t>(1, piece_steps_(shapes_.back()));
  while (next_picture_ < pictures_.size() &&
         static_cast<int64_t>(piece.size()) < (alike ? steps : 1))
    piece.push_back(std::move(pictures_[next_picture_++]));
  if (!alike && !piece.empty()) return piece;

  const int64_t frame_count = std::min(
      frames_left_, (steps - static_cast<int64_t>(piece.size())) * processor_->frames_per_step());
  if (frame_count == 0) return piece;
  std::vector<Image> frames;
  for (int64_t i = 0; i < frame_count; ++i) {
    VKV_TRY(watch.check());
    VKV_TRY_ASSIGN(frame, next_frame());
    frames.push_back(std::move(frame));
  }
  auto inputs = processor_->frames(frames);
  if (!inputs.ok()) return with_path(video_, inputs.status());
  std::ranges::move(inputs.value(), std::back_inserter(piece));
  piece.back().shape.ends = frames_left_ == 0;
  return piece;
}

}  // namespace vkv
