// torch_attention.h: PyTorch's attention at 16 bit, measured by a Python that has it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

struct TorchAttentionOptions {
  std::string python;  // an interpreter: a path, or a name to be found in PATH
  KvShape shape;       // `layers` is ignored
  int token_count = 0;
  int batch = 1;
  int q_len = 1;        // as AttendMeasurementOptions has it
  int cpu_threads = 0;  // 0: on the GPU
};

struct TorchAttentionRow {
  std::string way;     // "flash", "causal, K and V expanded first"
  double seconds = 0;  // of one call; 0: it does not work, see `refused`
  std::string refused;
};

struct TorchAttention {
  std::string version;
  std::vector<TorchAttentionRow> rows;
};

// Runs tools/vkv/torch_attention.py, which the program carries, and waits for it.
// Errors: kUnsupported if the interpreter cannot be run, or fails, or says something else; its own
// words are on standard error.
Result<TorchAttention> measure_torch_attention(const TorchAttentionOptions& options);

// The fastest way of those that see the same tokens as ours: with many queries, causally. nullopt:
// none works.
std::optional<TorchAttentionRow> fastest(const TorchAttention& torch, bool plain = false);

}  // namespace vkv
