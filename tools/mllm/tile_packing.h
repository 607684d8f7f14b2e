// tile_packing.h: LLaVA-OneVision: visual tokens of tiles and frames -> those of the prompt.
// SPDX-License-Identifier: Apache-2.0
//
// A picture becomes a small copy of it and tiles of a large one. Behind the copy's tokens stand
// those of the large picture, row by row, without the rows or columns that only padding fills,
// scaled down if they are too many, and a newline token behind each row. A frame of a video is
// scaled down to half its rows and columns; one newline token stands behind the video. Source: Li
// et al. 2024, "LLaVA-OneVision", section 3.2; Liu et al. 2024, "LLaVA-NeXT".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tools/mllm/model_config.h"
#include "tools/mllm/visual_input.h"

namespace vkv {

// How many pictures of the tower's size make this one, or this video.
int64_t tile_count(const VisualShape& shape);

int64_t packed_token_count(const ModelConfig& config, const VisualShape& shape);

// Appends packed_token_count() rows. `tiles`: [tile_count, tokens_per_image, text.hidden];
// `newline`: [text.hidden].
void pack_tiles(const ModelConfig& config, const VisualShape& shape, std::span<const float> tiles,
                std::span<const float> newline, std::vector<float>& rows);

}  // namespace vkv
