// measure_prefill.cpp: a fresh sequence, a prompt, a fork, a question; and the clock.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/cuda/measure_prefill.h"

#include <vector>

#include "runtime/base/stopwatch.h"
#include "tools/mllm/cuda/random_model.h"

namespace vkv {
namespace {

constexpr int kTextTokens = 64;  // in front of the visual ones: a system prompt

// Seconds of a window.
Result<double> forward(RandomModel& model, SequenceId sequence, int position,
                       const std::vector<Role>& roles) {
  std::vector<int32_t> tokens(roles.size());
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = 1 + static_cast<int32_t>((i * 7919 + static_cast<size_t>(position)) % 1000);
  const ForwardRequest request = {.sequence = sequence,
                                  .position = position,
                                  .tokens = tokens,
                                  .roles = roles,
                                  .ends_window = true};
  const Stopwatch clock;
  VKV_TRY(model.decoder->forward(*model.cache, {&request, 1}, {}).status());
  return clock.seconds();
}

}  // namespace

Result<PrefillMeasurement> measure_prefill(const PrefillMeasurementOptions& options) {
  VKV_TRY_ASSIGN(model, RandomModel::make(options.text, options.cache,
                                          2 * (options.token_count + options.question_count),
                                          options.token_count));
  std::vector<Role> prompt(static_cast<size_t>(options.token_count), Role::kText);
  for (int i = kTextTokens; i < std::min(options.token_count, kTextTokens + options.visual_count);
       ++i)
    prompt[static_cast<size_t>(i)] = Role::kVisual;
  const std::vector<Role> question(static_cast<size_t>(options.question_count), Role::kText);

  PrefillMeasurement result;
  std::vector<double> prompts, questions;
  for (int round = 0; round <= options.round_count; ++round) {
    VKV_TRY_ASSIGN(sequence, model.cache->create_sequence());
    VKV_TRY_ASSIGN(prompt_seconds, forward(model, sequence, 0, prompt));
    VKV_TRY_ASSIGN(asked, model.cache->fork(sequence));
    VKV_TRY_ASSIGN(question_seconds, forward(model, asked, options.token_count, question));
    VKV_TRY(model.cache->erase(asked));
    if (round == 0) {
      result.first_seconds = prompt_seconds;
      VKV_TRY_ASSIGN(stats, model.cache->sequence_stats(sequence));
      uint64_t bits = 0;
      for (const RoleStats& role : stats.role) bits += role.stored_bits;
      result.kv_bytes = bits / 8;
      result.dram_bytes = model.cache->stats().demoted_bytes;
      VKV_TRY_ASSIGN(device_bytes, device_bytes_used());
      result.device_bytes = device_bytes;
    } else {
      prompts.push_back(prompt_seconds);
      questions.push_back(question_seconds);
    }
    VKV_TRY(model.cache->erase(sequence));
  }
  result.prompt_seconds = median_of(prompts);
  result.question_seconds = median_of(questions);
  return result;
}

}  // namespace vkv
