// visual_layout.cpp: how many tokens pictures and videos become, and where RoPE puts them.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/visual_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tools/mllm/tile_packing.h"

namespace vkv {
namespace {

// Appends the positions of one picture or video that begins at `begin`; returns where the next
// token stands.
int32_t append_media(const VisionConfig& vision, const VisualShape& shape, int32_t begin,
                     std::vector<RopePosition>& positions) {
  const int32_t rows = shape.height / vision.merge_edge, columns = shape.width / vision.merge_edge;
  const bool counts_seconds = shape.is_video && vision.positions_per_second > 0;
  const double step = counts_seconds ? shape.step_seconds * vision.positions_per_second : 1.0;
  int32_t time = 0;
  for (int t = 0; t < shape.steps; ++t) {
    time = static_cast<int32_t>(std::floor(t * step));
    for (int32_t row = 0; row < rows; ++row)
      for (int32_t column = 0; column < columns; ++column)
        positions.push_back({begin + time, begin + row, begin + column});
  }
  return begin + std::max({rows, columns, time + 1});
}

}  // namespace

int64_t visual_token_count(const ModelConfig& config, const VisualShape& shape) {
  const VisionConfig& vision = config.vision;
  if (config.packs_tiles()) return packed_token_count(config, shape);
  if (!vision.is_qwen()) return config.tokens_per_image();
  return int64_t{shape.steps} * (shape.height / vision.merge_edge) *
         (shape.width / vision.merge_edge);
}

Result<std::vector<RopePosition>> prompt_positions(const ModelConfig& config,
                                                   std::span<const int32_t> tokens,
                                                   std::span<const VisualShape> media) {
  std::vector<RopePosition> positions;
  positions.reserve(tokens.size());
  int32_t next = 0;
  while (positions.size() < tokens.size()) {
    if (!config.is_visual(tokens[positions.size()])) {
      positions.push_back({next, next, next});
      ++next;
      continue;
    }
    const size_t begin = positions.size();
    if (media.empty())
      return Status(Code::kInvalidArgument,
                    fmt::format("visual tokens from {} on belong to no picture or video", begin));
    next = append_media(config.vision, media.front(), next, positions);
    media = media.subspan(1);
    if (positions.size() > tokens.size())
      return Status(
          Code::kInvalidArgument,
          fmt::format("the picture or video at token {} has more tokens than the prompt", begin));
  }
  if (!media.empty())
    return Status(Code::kInvalidArgument,
                  fmt::format("{} pictures or videos have no tokens", media.size()));
  return positions;
}

int64_t rope_end(std::span<const RopePosition> positions) {
  int64_t end = 0;
  for (const RopePosition& at : positions)
    end = std::max<int64_t>(end, int64_t{std::max({at.time, at.row, at.column})} + 1);
  return end;
}

}  // namespace vkv
