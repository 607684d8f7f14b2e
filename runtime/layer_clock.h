// layer_clock.h: when a layer has its turn, by how long those before it took.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>

namespace vkv {

class LayerClock {
 public:
  using Time = std::chrono::steady_clock::time_point;

  explicit LayerClock(int layer_count) : layer_count_(layer_count) {}

  // It computes from now on, or still does. What a layer took counts a quarter; a pause between two
  // steps no more than four layers.
  void tell(int layer, Time now) {
    if (layer == layer_) return;
    const Seconds taken = now - since_;
    if (layer_ >= 0 && usual_.count() == 0)
      usual_ = taken;
    else if (layer_ >= 0)
      usual_ += (std::min(taken, 4 * usual_) - usual_) / 4;
    layer_ = layer;
    since_ = now;
  }

  // Of the next time that the layer computes; of the one that does now, when it began.
  Time turn_of(int layer) const {
    const int layers_ahead = (layer - layer_ + layer_count_) % layer_count_;
    return since_ + std::chrono::duration_cast<Time::duration>(layers_ahead * usual_);
  }

 private:
  using Seconds = std::chrono::duration<double>;

  const int layer_count_;
  int layer_ = -1;  // nothing was told yet
  Time since_{};
  Seconds usual_{0};  // 0: not known
};

}  // namespace vkv
