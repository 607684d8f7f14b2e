// quality_meter.h: how far attention over codes is from attention over 16 bit, by samples.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/backend.h"
#include "vkv/options.h"
#include "vkv/stats.h"
#include "vkv/status.h"

namespace vkv {

class QualityMeter {
 public:
  QualityMeter(const QualityOptions& options, const KvShape& shape)
      : options_(options), shape_(shape) {}

  // True for the share of (step, layer) that the options ask for, spread evenly.
  bool samples(uint64_t step, int layer) const;

  // Counts one query: difference of its output from the exact one, both [q_heads, head_dim].
  // Returns true if an error is above the bound.
  bool add(std::span<const float> difference, std::span<const float> exact);
  void count_promotion() { ++stats_.promotion_count; }

  QualityStats stats() const;

 private:
  const QualityOptions options_;
  const KvShape shape_;
  QualityStats stats_;
  double error_sum_ = 0;
};

// The newest query of a call, and what encoding the tokens of one seal does to its output.
class SealSample {
 public:
  struct Query {
    const float* q = nullptr;       // [q_heads, head_dim]
    const float* lse = nullptr;     // [q_heads]: of the whole attention
    const float* out = nullptr;     // [q_heads, head_dim]: of the whole attention
    const float* k_mean = nullptr;  // that lse is relative to; nullptr: zero
  };

  SealSample(const KvShape& shape, float scale, Backend& backend, const Query& query);

  // Tokens of one block as they were and as they are now; both relative to k_mean. Fails only as
  // the backend does.
  Status add(const BlockView& block, const OpenTokens& exact, const float* k_mean);

  std::span<const float> difference() const { return difference_; }
  std::span<const float> exact() const { return {query_.out, difference_.size()}; }

 private:
  const KvShape shape_;
  const float scale_;
  Backend& backend_;
  const Query query_;
  std::vector<float> difference_;  // [q_heads, head_dim], of the whole attention's output
};

}  // namespace vkv
