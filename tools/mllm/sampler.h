// sampler.h: logits -> the next token.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <random>
#include <span>

#include "vkv/status.h"

namespace vkv {

struct Sampling {
  double temperature = 0;  // 0: greedy
  double top_p = 1;        // the most likely tokens that together reach it; (0, 1]
  uint64_t seed = 0;       // same seed, same answer
  int max_new_tokens = 64;
};

// Errors: kInvalidArgument, naming the field and what it may be.
Status validate(const Sampling& sampling);

// Draws with std::mt19937_64, whose numbers the C++ standard fixes: u = (draw >> 11) * 2^-53, and
// the token is the first whose cumulative probability, most likely token first, exceeds u. The
// standard's distributions are not used, because they differ between libraries.
class Sampler {
 public:
  explicit Sampler(const Sampling& sampling) : sampling_(sampling), engine_(sampling.seed) {}

  // `logits` [vocabulary], not empty. Greedy takes the lowest id of equal logits.
  int32_t next(std::span<const float> logits);

 private:
  Sampling sampling_;
  std::mt19937_64 engine_;
};

}  // namespace vkv
