// forward_request.cpp: what a model is asked for, whatever device it runs on.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/forward_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "tools/mllm/tile_packing.h"

namespace vkv {
namespace {

// The cache ranks visual tokens by what the last so many queries of a window look at: it gets them
// even where no logits are asked for.
constexpr int64_t kSaliencyQueries = 64;

// The greatest position that RoPE is asked for, or less than 0 if one is.
int64_t last_rope_position(const ForwardRequest& request) {
  const auto token_count = static_cast<int64_t>(request.tokens.size());
  const int64_t first = request.position + request.rope_delta;
  if (request.rope.empty()) return first < 0 ? first : first + token_count - 1;
  int64_t last = 0;
  for (const RopePosition& at : request.rope) {
    if (std::min({at.time, at.row, at.column}) < 0) return -1;
    last = std::max<int64_t>(last, std::max({at.time, at.row, at.column}));
  }
  return last;
}

int64_t value_count(const VisualShape& shape, const ModelConfig& config) {
  const VisionConfig& vision = config.vision;
  const int64_t pictures = config.packs_tiles() ? tile_count(shape) : 1;
  if (!vision.is_qwen()) return pictures * 3 * vision.image_edge * vision.image_edge;
  return int64_t{shape.steps} * shape.height * shape.width * vision.patch_values();
}

}  // namespace

Status validate(const ForwardRequest& request, const ModelConfig& config) {
  const auto invalid = [](const std::string& what) {
    return Status(Code::kInvalidArgument, "forward: " + what);
  };
  const auto token_count = static_cast<int64_t>(request.tokens.size());
  if (token_count == 0) return invalid("no tokens");
  if (request.roles.size() != request.tokens.size()) return invalid("roles and tokens differ");
  if (!request.rope.empty() && request.rope.size() != request.tokens.size())
    return invalid("positions and tokens differ");
  const int64_t last = last_rope_position(request);
  if (request.position < 0 || last < 0 || last >= config.text.positions_max)
    return invalid(fmt::format("tokens {} to {} do not fit the model's {} positions",
                               request.position, request.position + token_count,
                               config.text.positions_max));
  if (request.logit_count < 0 || request.logit_count > token_count)
    return invalid(fmt::format("{} logits of {} tokens", request.logit_count, token_count));
  size_t image_tokens = 0;
  for (const int32_t token : request.tokens) {
    if (token < 0 || token >= config.text.vocabulary)
      return invalid(fmt::format("token {}; the vocabulary has {}", token, config.text.vocabulary));
    if (config.is_visual(token)) ++image_tokens;
  }
  if (image_tokens * static_cast<size_t>(config.text.hidden) != request.visual.size())
    return invalid(fmt::format("{} image tokens, {} visual embeddings", image_tokens,
                               request.visual.size() / static_cast<size_t>(config.text.hidden)));
  return {};
}

Status validate(ForwardBatch batch, const ModelConfig& config) {
  for (const ForwardRequest& request : batch) VKV_TRY(validate(request, config));
  if (batch.size() == 1) return {};
  const auto invalid = [](const std::string& what) {
    return Status(Code::kInvalidArgument, "forward of a batch: " + what);
  };
  if (batch.empty()) return invalid("no requests");
  if (token_count(batch) > kBatchTokensMax)
    return invalid(fmt::format("{} tokens; it takes {}", token_count(batch), kBatchTokensMax));
  std::vector<uint64_t> sequences;
  for (const ForwardRequest& request : batch) {
    if (!request.visual.empty() || request.ends_window)
      return invalid("visual rows and ends of windows go alone");
    sequences.push_back(static_cast<uint64_t>(request.sequence));
  }
  std::ranges::sort(sequences);
  const auto twice = std::ranges::adjacent_find(sequences);
  if (twice != sequences.end())
    return invalid(fmt::format("sequence {} stands in it twice", *twice));
  return {};
}

int64_t token_count(ForwardBatch batch) {
  int64_t count = 0;
  for (const ForwardRequest& request : batch) count += static_cast<int64_t>(request.tokens.size());
  return count;
}

int64_t logit_count(ForwardBatch batch) {
  int64_t count = 0;
  for (const ForwardRequest& request : batch) count += request.logit_count;
  return count;
}

int64_t first_query_of_last_layer(const ForwardRequest& request) {
  const auto token_count = static_cast<int64_t>(request.tokens.size());
  return std::min(token_count - request.logit_count,
                  std::max<int64_t>(0, token_count - kSaliencyQueries));
}

std::vector<RopePosition> rope_positions(ForwardBatch batch) {
  std::vector<RopePosition> positions;
  for (const ForwardRequest& request : batch) {
    positions.insert(positions.end(), request.rope.begin(), request.rope.end());
    if (!request.rope.empty()) continue;
    auto next = static_cast<int32_t>(request.position + request.rope_delta);
    for (size_t i = 0; i < request.tokens.size(); ++i, ++next)
      positions.push_back({next, next, next});
  }
  return positions;
}

Status validate_images(std::span<const VisualInput> images, const ModelConfig& config) {
  const VisionConfig& vision = config.vision;
  for (size_t i = 0; i < images.size(); ++i) {
    const VisualShape& shape = images[i].shape;
    const bool in_tiles = shape.tile_rows != 0 || shape.tile_columns != 0;
    if (config.packs_tiles() && in_tiles &&
        std::min({shape.tile_rows, shape.tile_columns, shape.height, shape.width}) < 1)
      return {Code::kInvalidArgument,
              fmt::format("image {} has {} x {} tiles of {} x {} pixels", i, shape.tile_columns,
                          shape.tile_rows, shape.width, shape.height)};
    const bool has_grid = shape.steps >= 1 && shape.height >= 1 && shape.width >= 1 &&
                          shape.height % vision.merge_edge == 0 &&
                          shape.width % vision.merge_edge == 0;
    if (vision.is_qwen() && !has_grid)
      return {Code::kInvalidArgument,
              fmt::format("image {} has {} x {} x {} patches; height and width must be multiples "
                          "of {}",
                          i, shape.steps, shape.height, shape.width, vision.merge_edge)};
    const int64_t expected = value_count(shape, config);
    if (static_cast<int64_t>(images[i].values.size()) == expected) continue;
    if (vision.is_qwen())
      return {Code::kInvalidArgument,
              fmt::format("image {} has {} values; {} x {} x {} patches of the vision tower have "
                          "{}",
                          i, images[i].values.size(), shape.steps, shape.height, shape.width,
                          expected)};
    return {Code::kInvalidArgument,
            fmt::format("image {} has {} values; the vision tower takes {}3 x {} x {}", i,
                        images[i].values.size(),
                        config.packs_tiles() ? fmt::format("{} x ", tile_count(shape)) : "",
                        vision.image_edge, vision.image_edge)};
  }
  return {};
}

}  // namespace vkv
