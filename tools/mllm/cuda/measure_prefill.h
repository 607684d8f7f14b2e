// measure_prefill.h: how long a prompt takes until its first logits, and a question behind it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "tools/mllm/model_config.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct PrefillMeasurementOptions {
  TextConfig text;          // weights are random, of bf16
  int token_count = 0;      // of the prompt: one window
  int visual_count = 0;     // of them, visual; behind the first
  int question_count = 32;  // tokens of a question to a fork of the prompt's sequence
  int round_count = 3;      // that are timed, after one more
  CacheOptions cache;       // as for measure_decode()
};

// Seconds until the logits are on the host; medians over rounds, each with a sequence of its own.
struct PrefillMeasurement {
  double first_seconds = 0;  // of the first prompt of the process: takes memory, loads kernels
  double prompt_seconds = 0;
  double question_seconds = 0;
  uint64_t kv_bytes = 0;      // of the prompt
  uint64_t dram_bytes = 0;    // of them, in DRAM
  uint64_t device_bytes = 0;  // of the whole GPU, in use
};

// Errors: as measure_decode().
Result<PrefillMeasurement> measure_prefill(const PrefillMeasurementOptions& options);

}  // namespace vkv
