// image_processor.h: a picture -> the values that the vision tower takes.
// SPDX-License-Identifier: Apache-2.0
//
// CLIPImageProcessor and SiglipImageProcessor as transformers 5 runs them (its torchvision
// backend): resize, crop about the centre, rescale and normalise. The grey levels after resizing
// are the same, and the values differ by rounding in the last bit at most.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tools/mllm/image.h"
#include "tools/mllm/processor_fields.h"
#include "tools/mllm/resize.h"
#include "vkv/status.h"

namespace vkv {

// Immutable; any thread may call.
class ImageProcessor {
 public:
  // Reads "image_processor" of processor_config.json if it is there, else preprocessor_config.json.
  // Errors: kNotFound (neither file), kInvalidArgument (a field that makes no sense, by name),
  // kUnsupported (another processor, resampling, or pictures of no fixed size), kIo.
  static Result<ImageProcessor> load(const std::filesystem::path& model_dir);

  // From the text of such a file; `where` stands before the message of an error.
  static Result<ImageProcessor> parse(const std::string& json_text, const std::string& where);

  // Pixel values [3, height(), width()]. Errors: kInvalidArgument for a picture without pixels or
  // of an aspect ratio that cannot be resized within the limits of media_limits.h.
  Result<std::vector<float>> process(const Image& image) const;

  int height() const { return height_; }
  int width() const { return width_; }

 private:
  ImageProcessor() = default;

  Result<Image> resized(const Image& image) const;

  bool do_resize_ = true;
  int shortest_edge_ = 0;  // 0: resize to resize_height_ x resize_width_
  int resize_height_ = 0;
  int resize_width_ = 0;
  Resample resample_ = Resample::kBicubic;
  bool do_center_crop_ = false;  // to height_ x width_
  int height_ = 0;
  int width_ = 0;
  PixelScale scale_;
};

}  // namespace vkv
