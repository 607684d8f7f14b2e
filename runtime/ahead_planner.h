// ahead_planner.h: how much of a layer's blocks comes through the link before its attention.
// SPDX-License-Identifier: Apache-2.0
//
// Between two attentions a GPU reads weights, and its link is free: as much as it can move in that
// time is worth reading ahead. More would make attention wait for what it could read beside the
// CPU. Both the time and the link's speed are measured, the time for each layer, as the last one of
// a step is followed by the model's head and the caller. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/base/backend.h"

namespace vkv {

class AheadPlanner {
 public:
  explicit AheadPlanner(int layers) : free_seconds_(static_cast<size_t>(layers)) {}

  // Bytes of that layer, at most `room`.
  uint64_t bytes(int layer, uint64_t room) const;

  // Copies of that layer's blocks in a step.
  void add(int layer, const AheadTiming& timing);

  double rate() const { return rate_; }  // of the copies, bytes a second, of late

 private:
  double rate_ = 0;
  std::vector<double> free_seconds_;  // 0: not measured
};

}  // namespace vkv
