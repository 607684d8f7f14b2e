// rope.cpp: rotary position embedding, by one position or by several.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/rope.h"

#include <cmath>

#include "tools/mllm/row_tasks.h"

namespace vkv {
namespace {

float frequency_at(size_t pair, int head_dim, double theta) {
  return 1.0f / std::pow(static_cast<float>(theta),
                         static_cast<float>(2 * pair) / static_cast<float>(head_dim));
}

}  // namespace

RopeChannels rope_channels(int head_dim, double theta, const std::array<int, 3>& section) {
  RopeChannels channels;
  for (size_t pair = 0; pair < static_cast<size_t>(head_dim / 2); ++pair)
    channels.frequency.push_back(frequency_at(pair, head_dim, theta));
  for (uint8_t axis = 0; axis < 3; ++axis)
    channels.axes.insert(channels.axes.end(), static_cast<size_t>(section[axis]), axis);
  channels.axes.resize(channels.frequency.size(), 0);
  return channels;
}

RopeChannels image_rope_channels(int head_dim, double theta) {
  const auto quarter = static_cast<size_t>(head_dim / 4);
  RopeChannels channels;
  for (const uint8_t axis : {1, 2})
    for (size_t pair = 0; pair < quarter; ++pair) {
      channels.frequency.push_back(frequency_at(pair, head_dim / 2, theta));
      channels.axes.push_back(axis);
    }
  return channels;
}

RopeTable::RopeTable(std::span<const RopePosition> positions, const RopeChannels& channels)
    : count_(static_cast<int64_t>(positions.size())),
      half_(static_cast<int>(channels.frequency.size())),
      cosine_(positions.size() * channels.frequency.size()),
      sine_(cosine_.size()) {
  for_rows(count_, half_, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const RopePosition& at = positions[static_cast<size_t>(row)];
      const std::array<int32_t, 3> axis = {at.time, at.row, at.column};
      for (size_t i = 0; i < static_cast<size_t>(half_); ++i) {
        const float angle = static_cast<float>(axis[channels.axes[i]]) * channels.frequency[i];
        cosine_[static_cast<size_t>(row * half_) + i] = std::cos(angle);
        sine_[static_cast<size_t>(row * half_) + i] = std::sin(angle);
      }
    }
  });
}

void RopeTable::apply(float* x, int heads, int64_t stride) const {
  for_rows(count_, int64_t{heads} * half_ * 2, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* const cosine = cosine_.data() + row * half_;
      const float* const sine = sine_.data() + row * half_;
      for (int head = 0; head < heads; ++head) {
        float* const low = x + row * stride + int64_t{head} * half_ * 2;
        float* const high = low + half_;
        for (int i = 0; i < half_; ++i) {
          const float a = low[i], b = high[i];
          low[i] = a * cosine[i] - b * sine[i];
          high[i] = b * cosine[i] + a * sine[i];
        }
      }
    }
  });
}

}  // namespace vkv
