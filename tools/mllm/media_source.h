// media_source.h: pictures and videos as the vision tower takes them, piece by piece.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "tools/mllm/media.h"
#include "tools/mllm/media_processor.h"
#include "tools/mllm/visual_input.h"
#include "tools/mllm/watch.h"

namespace vkv {

// Read once, from the first piece to the last, by one thread at a time.
class MediaSource {
 public:
  virtual ~MediaSource() = default;

  // Of all pictures and videos, whole, in their order. Valid as long as the source.
  virtual std::span<const VisualShape> shapes() const = 0;

  // The next piece: pictures, or some steps of a video, whose shape has that many. Empty: there is
  // nothing left. Errors: those of decoding and of MediaProcessor, with the file's name;
  // kCancelled. Nothing may be asked for after an error.
  virtual Result<std::vector<VisualInput>> next(const Watch& watch) = 0;
};

struct MediaFiles {
  std::vector<std::filesystem::path> pictures;
  std::filesystem::path video;  // behind the pictures; empty: none
  VideoSampling sampling;
};

// Pictures and a video in files. Holds all pictures, and of the video a piece.
class FileMedia : public MediaSource {
 public:
  // Steps of a video of this shape, or pictures of the one size that there is, that become one
  // piece: as many as go through the vision tower at once, so that a piece wastes nothing.
  using PieceSteps = std::function<int64_t(const VisualShape&)>;

  // The processor outlives the source. Progress counts pictures. Errors: those of load_image,
  // open_video and MediaProcessor, with the file's name; kCancelled.
  static Result<std::unique_ptr<FileMedia>> open(const MediaFiles& files,
                                                 const MediaProcessor* processor,
                                                 PieceSteps piece_steps, const Watch& watch);

  std::span<const VisualShape> shapes() const override { return shapes_; }
  Result<std::vector<VisualInput>> next(const Watch& watch) override;

  int64_t frame_count() const { return frame_count_; }  // pictures, and frames of the video

 private:
  FileMedia(const MediaProcessor* processor, PieceSteps piece_steps)
      : processor_(processor), piece_steps_(std::move(piece_steps)) {}
  Status open_pictures(const MediaFiles& files, const Watch& watch);
  Status open_frames(const MediaFiles& files);
  Result<Image> next_frame();

  const MediaProcessor* processor_;
  PieceSteps piece_steps_;
  std::vector<VisualShape> shapes_;
  int64_t frame_count_ = 0;
  std::vector<VisualInput> pictures_;
  size_t next_picture_ = 0;
  std::filesystem::path video_;
  std::unique_ptr<VideoReader> reader_;  // null: no video
  std::optional<Image> first_frame_;     // decoded for the shape's sake
  int64_t frames_left_ = 0;
  int frame_width_ = 0, frame_height_ = 0;  // of the first; all have this size
};

}  // namespace vkv
