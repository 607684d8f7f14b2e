// media_key.h: the name under which the KV of media is kept.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "tools/mllm/media_source.h"
#include "tools/mllm/visual_input.h"
#include "vkv/saved.h"
#include "vkv/status.h"

namespace vkv {

// SHA-256 over the model, `settings` (whatever else changes K and V), the contents of all media
// files in their order, which frames are taken, what decodes them and what shapes they become: so
// no video needs to be decoded to find its KV. The model is told by its files: names, sizes, times
// of change, and the contents of those up to 1 MiB, which are the configurations; weights are not
// read for it, so a copy of a model is another one. model: a checkpoint's folder, or a file.
// Errors: kIo.
Result<SequenceKey> media_key(const std::string& model, const std::string& settings,
                              const MediaFiles& files, std::span<const VisualShape> shapes);

// The same of media that came as pixels: over those, and never the key of files.
Result<SequenceKey> media_key(const std::string& model, const std::string& settings,
                              std::span<const VisualInput> inputs);

// Sizes and times of change of the media files, to see whether one has changed since. Errors: kIo.
Result<std::string> media_stamps(const MediaFiles& files);

}  // namespace vkv
