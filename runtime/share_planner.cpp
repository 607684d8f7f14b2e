// share_planner.cpp: the balance of two times.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/share_planner.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace vkv {
namespace {

// A layer that has fewer in DRAM is not worth a handshake of some 20 us.
constexpr uint64_t kBytesMin = uint64_t{1} << 20;
// Both paths keep some work, or nobody would notice that one has become faster.
constexpr double kFractionMin = 0.02;
constexpr double kPower = 0.08;       // calls are measured up to 8 calls late: 0.2 would swing
constexpr double kNewest = 0.1;       // weight of a call in the mean rates
constexpr double kNewestGain = 0.01;  // a step of a layer's calls or four: a wait of ms is rare
// The device needs 2 us or so to read a flag of the host that was raised long ago: no wait.
constexpr double kFlagSeconds = 5e-6;

void take(uint64_t bytes, double seconds, double& rate) {
  if (bytes == 0 || seconds <= 0) return;
  const double now = static_cast<double>(bytes) / seconds;
  rate = rate == 0 ? now : rate + kNewest * (now - rate);
}

}  // namespace

uint64_t SharePlanner::host_bytes(uint64_t byte_count) {
  const auto bytes = static_cast<double>(byte_count);
  if (fixed_ >= 0) return static_cast<uint64_t>(std::min(fixed_, 1.0) * bytes);
  if (left_out_ > 0) {
    --left_out_;
    return 0;
  }
  return byte_count < kBytesMin ? 0 : static_cast<uint64_t>(fraction_ * bytes);
}

void SharePlanner::report(CacheStats& stats) const {
  stats.host_read_rate = host_rate_;
  stats.link_read_rate = device_rate_;
}

void SharePlanner::add(const ShareTiming& timing) {
  take(timing.host_bytes, timing.host_seconds, host_rate_);
  take(timing.device_bytes, timing.device_seconds, device_rate_);

  if (timing.device_seconds <= 0) return;
  judge(timing);
  // With the handshake, which shows where the device waited.
  const double host_seconds =
      timing.wait_seconds > kFlagSeconds
          ? std::max(timing.host_seconds, timing.device_seconds + timing.wait_seconds)
          : timing.host_seconds;
  if (host_seconds <= 0) return;
  const double odds =
      fraction_ / (1 - fraction_) * std::pow(timing.device_seconds / host_seconds, kPower);
  fraction_ = std::clamp(odds / (1 + odds), kFractionMin, 1 - kFractionMin);
}

void SharePlanner::judge(const ShareTiming& timing) {
  const auto device_bytes = static_cast<double>(timing.device_bytes);
  if (device_bytes == 0 || timing.host_bytes == 0 || left_out_ > 0) return;
  const double alone = timing.device_seconds *
                       (device_bytes + static_cast<double>(timing.host_bytes)) / device_bytes;
  const double gain = 1 - (timing.device_seconds + timing.wait_seconds) / alone;
  gain_ += kNewestGain * (gain - gain_);
  if (++judged_ == kPauseMin) next_pause_ = kPauseMin;  // it has been worth it for long
  if (gain_ >= 0) return;
  judged_ = 0;
  left_out_ = std::exchange(next_pause_, std::min(2 * next_pause_, kPauseMax));
  gain_ = kFirstGain;
}

}  // namespace vkv
