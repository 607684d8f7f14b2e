// npy.h: frame stacks in NumPy's file format.
// SPDX-License-Identifier: Apache-2.0
//
// Accepts uint8 arrays in C order, [frames, height, width, 3] or [height, width, 3] (one frame),
// format version 1.0 or 2.0. The header is checked in full and against the file's size before any
// pixel is read, and pixels are read a frame at a time.
//
// Source: numpy.lib.format, "Format Version 1.0" and "2.0".
#pragma once

#include <cstdint>
#include <filesystem>

#include "tools/mllm/image.h"
#include "vkv/status.h"

namespace vkv {

// Immutable; each frame() opens the file anew, so any thread may call.
class NpyStack {
 public:
  // Errors: kIo (cannot be read), kInvalidArgument (not such an array; says what it is),
  // kDataLoss (the file is shorter than its shape says).
  static Result<NpyStack> open(const std::filesystem::path& path);

  int64_t frame_count() const { return frame_count_; }  // may be 0
  int height() const { return height_; }
  int width() const { return width_; }

  // 0 <= index < frame_count(). Errors: kIo, kDataLoss (the file shrank since).
  Result<Image> frame(int64_t index) const;

 private:
  NpyStack() = default;

  std::filesystem::path path_;
  uint64_t data_offset_ = 0;  // bytes
  int64_t frame_count_ = 0;
  int height_ = 0;
  int width_ = 0;
};

}  // namespace vkv
