// visual_layout.h: how many tokens pictures and videos become, and where RoPE puts them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tools/mllm/forward_request.h"
#include "tools/mllm/model_config.h"
#include "tools/mllm/visual_input.h"

namespace vkv {

// Of a model with vision.
int64_t visual_token_count(const ModelConfig& config, const VisualShape& shape);

// The positions of a prompt that begins a sequence, [tokens], of a model with M-RoPE. Text takes
// one position a token. The token of step t, row y and column x of a picture or video that begins
// at p stands at (p + time(t), p + y, p + x), and what follows begins one behind the greatest of
// all these. time(t) is t, or where the model counts seconds t * step_seconds *
// positions_per_second, rounded down. So it was when the models were trained; transformers 5.17
// gives the same for pictures, but in videos it rounds step_seconds down first, and lets what
// follows begin at p + max(rows, columns), however long the video is. Each run of visual tokens
// takes the next of `media`. Source: Wang et al. 2024, "Qwen2-VL", section 2.1; Bai et al. 2025,
// "Qwen2.5-VL", section 2.1.3. Errors: kInvalidArgument if runs and media do not match.
Result<std::vector<RopePosition>> prompt_positions(const ModelConfig& config,
                                                   std::span<const int32_t> tokens,
                                                   std::span<const VisualShape> media);

// One more than the greatest position; 0 of none.
int64_t rope_end(std::span<const RopePosition> positions);

}  // namespace vkv
