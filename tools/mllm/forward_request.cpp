// forward_request.cpp: what a model is asked for, whatever device it runs on.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/forward_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace vkv {
namespace {

// The cache ranks visual tokens by what the last so many queries of a window look at: it gets them
// even where no logits are asked for.
constexpr int64_t kSaliencyQueries = 64;

}  // namespace

Status validate(const ForwardRequest& request, const ModelConfig& config) {
  const auto invalid = [](const std::string& what) {
    return Status(Code::kInvalidArgument, "forward: " + what);
  };
  const auto token_count = static_cast<int64_t>(request.tokens.size());
  if (token_count == 0) return invalid("no tokens");
  if (request.roles.size() != request.tokens.size()) return invalid("roles and tokens differ");
  if (request.position < 0 || request.position + token_count > config.text.positions_max)
    return invalid(fmt::format("tokens {} to {} do not fit the model's {} positions",
                               request.position, request.position + token_count,
                               config.text.positions_max));
  if (request.logit_count < 0 || request.logit_count > token_count)
    return invalid(fmt::format("{} logits of {} tokens", request.logit_count, token_count));
  size_t image_tokens = 0;
  for (const int32_t token : request.tokens) {
    if (token < 0 || token >= config.text.vocabulary)
      return invalid(fmt::format("token {}; the vocabulary has {}", token, config.text.vocabulary));
    if (token == config.image_token) ++image_tokens;
  }
  if (image_tokens * static_cast<size_t>(config.text.hidden) != request.visual.size())
    return invalid(fmt::format("{} image tokens, {} visual embeddings", image_tokens,
                               request.visual.size() / static_cast<size_t>(config.text.hidden)));
  return {};
}

int64_t first_query_of_last_layer(const ForwardRequest& request) {
  const auto token_count = static_cast<int64_t>(request.tokens.size());
  return std::min(token_count - request.logit_count,
                  std::max<int64_t>(0, token_count - kSaliencyQueries));
}

Status validate_images(std::span<const std::vector<float>> images, const VisionConfig& vision) {
  const auto pixel_count = size_t{3} * static_cast<size_t>(vision.image_edge * vision.image_edge);
  for (size_t i = 0; i < images.size(); ++i)
    if (images[i].size() != pixel_count)
      return {Code::kInvalidArgument,
              fmt::format("image {} has {} values; the vision tower takes 3 x {} x {}", i,
                          images[i].size(), vision.image_edge, vision.image_edge)};
  return {};
}

}  // namespace vkv
