// media_loader.h: pictures and videos of a request: from its own bytes, or from an allowed folder.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tools/mllm/media_processor.h"
#include "tools/server/chat_request.h"
#include "vkv/status.h"

namespace vkv {

struct MediaLoaderOptions {
  std::filesystem::path root;               // file: URLs may name what lies in it; empty: nothing
  uint64_t bytes_max = uint64_t{64} << 20;  // of a medium, encoded
};

// The bytes of standard base64; line ends may stand in it. Errors: kInvalidArgument.
Result<std::string> decode_base64(std::string_view text);

// Immutable; any thread may call.
class MediaLoader {
 public:
  // Errors: kNotFound for a root that is no folder.
  static Result<MediaLoader> make(const MediaLoaderOptions& options);

  // What the vision tower takes of them, in their order. Errors: kInvalidArgument for a URL that is
  // not allowed or no picture, kOutOfMemory for one that is too large, and those of load_image,
  // load_video and MediaProcessor; all say which medium. Nothing of a data: URL touches a disk.
  Result<std::vector<VisualInput>> load(const std::vector<MediaPart>& media,
                                        const MediaProcessor& processor) const;

 private:
  explicit MediaLoader(const MediaLoaderOptions& options) : options_(options) {}
  // picture_count: of the whole request.
  Status add(const MediaPart& part, size_t picture_count, const MediaProcessor& processor,
             std::vector<VisualInput>& inputs) const;
  Result<std::filesystem::path> allowed_file(std::string_view url) const;

  MediaLoaderOptions options_;
};

}  // namespace vkv
