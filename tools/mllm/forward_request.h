// forward_request.h: what a model is asked for, whatever device it runs on.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tools/mllm/model_config.h"
#include "tools/mllm/rope.h"
#include "tools/mllm/visual_input.h"
#include "vkv/types.h"

namespace vkv {

// Tokens that follow those already in a sequence.
struct ForwardRequest {
  SequenceId sequence{};
  int64_t position = 0;             // of the first token: tokens that the sequence has already
  std::span<const int32_t> tokens;  // [token_count], at least one
  std::span<const Role> roles;      // [token_count]
  // [token_count]; or empty: one after another from position + rope_delta on. With M-RoPE a picture
  // takes fewer positions than it has tokens, so that the delta behind it is less than 0.
  std::span<const RopePosition> rope;
  int64_t rope_delta = 0;
  std::span<const float> visual;  // [visual_count, hidden]: rows for the image tokens, in order
  int logit_count = 1;            // logits of the last so many tokens; 0..token_count
  bool ends_window = false;       // see AttendRequest
};

// Requests of different sequences that go through the model together: one pass over the weights
// for all. More than one have at most kBatchTokensMax tokens in all, and are steps: tokens without
// visual rows that end no window.
using ForwardBatch = std::span<const ForwardRequest>;
inline constexpr int64_t kBatchTokensMax = 256;

// Errors: kInvalidArgument, naming what does not fit the model, or a batch.
Status validate(const ForwardRequest& request, const ModelConfig& config);
Status validate(ForwardBatch batch, const ModelConfig& config);

int64_t token_count(ForwardBatch batch);
int64_t logit_count(ForwardBatch batch);

// Past the last layer only the tokens whose logits are asked for go on, but its attention needs the
// queries that the cache ranks visual tokens by: the first token whose query goes there.
int64_t first_query_of_last_layer(const ForwardRequest& request);

// The positions of all tokens of valid requests, one request after another.
std::vector<RopePosition> rope_positions(ForwardBatch batch);

// Errors: kInvalidArgument for a picture or video whose values are not as VisualInput says.
Status validate_images(std::span<const VisualInput> images, const ModelConfig& config);

}  // namespace vkv
