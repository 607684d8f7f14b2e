// step_model.h: how long a decode step takes at least, from its bytes and a machine's speeds.
// SPDX-License-Identifier: Apache-2.0
//
// A step reads every weight and every stored key and value once. What lies in HBM goes at HBM's
// speed; meanwhile the link brings blocks from DRAM, as it needs no queries for that; what is then
// left in DRAM is read by the link and by a CPU that attends together. No step is faster than that
// sum; `vkv bench decode` measures how near a step comes.
#pragma once

#include <cstdint>

#include "vkv/options.h"
#include "vkv/types.h"

namespace vkv {

// Bytes a second; 0: there is none. host: of attention by the CPU, not of its memory.
struct ReadSpeeds {
  double hbm = 0;
  double link = 0;
  double host = 0;
};

// Of one step, of all its sequences together.
struct StepBytes {
  uint64_t weights = 0;  // in HBM
  uint64_t hbm_kv = 0;
  uint64_t dram_kv = 0;
};

enum class StepBound : uint8_t {
  kHbm,   // all that lies in DRAM arrives while HBM is read
  kLink,  // then the link alone reads the rest
  kBoth,  // the link and the CPU do
};

struct StepEstimate {
  double seconds = 0;
  double hbm_seconds = 0;    // of it
  uint64_t ahead_bytes = 0;  // brought while HBM is read
  uint64_t link_bytes = 0;   // read by the GPU, waiting for it
  uint64_t host_bytes = 0;   // read by the CPU
  StepBound bound = StepBound::kHbm;
};

// hbm must be positive, and link where there is something in DRAM.
StepEstimate estimate_step(const StepBytes& bytes, const ReadSpeeds& speeds);

// What a sequence takes once its prompt is sealed, in full blocks.
struct SequenceBytes {
  uint64_t blocks = 0;  // encoded, of all layers
  uint64_t open = 0;    // the recent tokens, at 16 bit
  double bits_per_visual_value = 0;
};

// visual_count of the token_count tokens are visual. The policy must be valid.
SequenceBytes estimate_bytes(const KvShape& shape, const PrecisionPolicy& policy, int recent_tokens,
                             uint64_t token_count, uint64_t visual_count);

}  // namespace vkv
