// model_shapes.h: shapes of decoders by name, where weights do not matter.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tools/mllm/model_config.h"
#include "vkv/status.h"

namespace vkv {

// "smollm2-135m, llava-1.5-7b, qwen2.5-7b"
std::string model_shape_names();

// Errors: kInvalidArgument, listing the names.
Result<TextConfig> named_text_shape(std::string_view name);

// Bytes of 16-bit weights that a step of one token reads: all but the embedding's other rows.
uint64_t step_weight_bytes(const TextConfig& text);

}  // namespace vkv
