// ops.h: the row-wise arithmetic between the matrix products, in fp32.
// SPDX-License-Identifier: Apache-2.0
//
// All run in parallel over rows on the TBB arena of the caller. A result does not depend on the
// number of threads: no sum crosses a row.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace vkv {

// y = x / sqrt(mean(x^2) + epsilon) * weight. x and y are [rows, weight.size()] and may be one.
void rms_norm(const float* x, int64_t rows, std::span<const float> weight, float epsilon, float* y);

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias. x and y as in rms_norm.
void layer_norm(const float* x, int64_t rows, std::span<const float> weight,
                std::span<const float> bias, float epsilon, float* y);

// x[i] *= y[i]
void multiply(float* x, const float* y, int64_t value_count);

// theta^(-2i / head_dim) for each i < head_dim / 2.
std::vector<float> rope_frequency(int head_dim, double theta);

// Rotary position embedding of consecutive positions. Channel i turns with channel
// i + head_dim / 2 ("rotate_half"), by position * theta^(-2i / head_dim). Source: Su et al. 2021,
// "RoFormer"; angles are fp32 products, as in transformers, so that long prompts agree with it.
class RopeTable {
 public:
  RopeTable(int64_t position, int64_t count, int head_dim, double theta);

  // x [count, heads, head_dim], in place.
  void apply(float* x, int heads) const;

 private:
  int64_t count_;
  int half_;
  std::vector<float> cosine_;  // [count, head_dim / 2]
  std::vector<float> sine_;    // [count, head_dim / 2]
};

}  // namespace vkv
