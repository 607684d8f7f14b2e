// rope.h: rotary position embedding, by one position or by several.
// SPDX-License-Identifier: Apache-2.0
//
// Channel i turns with channel i + head_dim / 2 ("rotate_half"), by position * frequency[i].
// Sources: Su et al. 2021, "RoFormer"; of several positions Wang et al. 2024, "Qwen2-VL".
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace vkv {

// Where a token stands. Text has one number in all three; so has a model without M-RoPE.
struct RopePosition {
  int32_t time = 0;
  int32_t row = 0;
  int32_t column = 0;
  bool operator==(const RopePosition&) const = default;
};

// Each [head_dim / 2].
struct RopeChannels {
  std::vector<float> frequency;
  std::vector<uint8_t> axes;  // by which position a pair of channels turns: 0 time, 1 row, 2 column
};

// theta^(-2i / head_dim); `section`: how many pairs turn by time, row and column, in this order, or
// all zero: every pair turns by time.
RopeChannels rope_channels(int head_dim, double theta, const std::array<int, 3>& section);

// For pictures: the first half of the pairs turns by row, the other by column, both with
// theta^(-4i / head_dim). head_dim is a multiple of 4.
RopeChannels image_rope_channels(int head_dim, double theta);

// Angles are fp32 products, as in transformers, so that long prompts agree with it.
class RopeTable {
 public:
  RopeTable(std::span<const RopePosition> positions, const RopeChannels& channels);

  // x [positions, heads, head_dim], in place, rows `stride` values apart. On the TBB arena of the
  // caller.
  void apply(float* x, int heads, int64_t stride) const;
  void apply(float* x, int heads) const { apply(x, heads, int64_t{heads} * half_ * 2); }

  // [positions, head_dim / 2]
  const std::vector<float>& cosine() const { return cosine_; }
  const std::vector<float>& sine() const { return sine_; }

 private:
  int64_t count_;
  int half_;
  std::vector<float> cosine_;
  std::vector<float> sine_;
};

}  // namespace vkv
