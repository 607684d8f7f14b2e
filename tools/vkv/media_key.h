// media_key.h: the name under which the KV of media is kept.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "tools/mllm/visual_input.h"
#include "vkv/saved.h"
#include "vkv/status.h"

namespace vkv {

// SHA-256 over the model, `settings` (whatever else changes K and V), and shapes and values of all
// pictures and videos in their order. The model is told by its files: names, sizes, times of
// change, and the contents of those up to 1 MiB, which are the configurations; weights are not read
// for it, so a copy of a model is another one. model: a checkpoint's folder, or a file. Errors:
// kIo.
Result<SequenceKey> media_key(const std::string& model, const std::string& settings,
                              std::span<const VisualInput> inputs);

}  // namespace vkv
