// ahead_planner.cpp: running means.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/ahead_planner.h"

#include <algorithm>

namespace vkv {
namespace {

constexpr uint64_t kFirstBytes = uint64_t{2} << 20;  // to measure with
constexpr uint64_t kBytesMin = uint64_t{256} << 10;  // the measuring goes on
constexpr double kNewest = 0.1;                      // weight of a measurement
constexpr double kFreeSecondsMax = 10e-3;            // a caller that thinks is no usual time

void take(double now, double& mean) { mean = mean == 0 ? now : mean + kNewest * (now - mean); }

}  // namespace

uint64_t AheadPlanner::bytes(int layer, uint64_t room) const {
  const double free_seconds = free_seconds_[static_cast<size_t>(layer)];
  if (rate_ == 0 || free_seconds == 0) return std::min(kFirstBytes, room);
  const auto moved = static_cast<uint64_t>(rate_ * free_seconds);
  return std::min(std::max(moved, kBytesMin), room);
}

void AheadPlanner::add(int layer, const AheadTiming& timing) {
  if (timing.byte_count == 0 || timing.copy_seconds <= 0 || timing.free_seconds <= 0) return;
  take(static_cast<double>(timing.byte_count) / timing.copy_seconds, rate_);
  take(std::min(timing.free_seconds, kFreeSecondsMax), free_seconds_[static_cast<size_t>(layer)]);
}

}  // namespace vkv
