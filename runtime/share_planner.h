// share_planner.h: how much of a layer's attention the CPU does beside the GPU.
// SPDX-License-Identifier: Apache-2.0
//
// What lies in DRAM is read by both: the CPU is bound by its memory or its instructions, the GPU by
// its link. Both should be done at the same time. How long each takes is measured call by call, and
// the shares move towards the balance: the CPU's bytes over the GPU's are multiplied by a small
// power of the GPU's time over the CPU's. That needs no model of either, which would have to know
// that a small share costs more a byte; and a path that slows down gets less. The power is small
// because calls are measured several calls after they were planned.
//
// That balance is of usual calls. Where other programs take the CPU away from time to time, a few
// calls wait for long, and sharing may lose on the whole: if calls took longer on average than the
// GPU alone would have, by the speed of its part, the CPU is left out for a while, the longer the
// more often that happens in a row. Not thread-safe.
#pragma once

#include <cstdint>

#include "runtime/base/backend.h"
#include "vkv/stats.h"

namespace vkv {

class SharePlanner {
 public:
  // fraction: of the bytes, for the CPU; negative: where both paths are done together.
  explicit SharePlanner(double fraction) : fixed_(fraction) {}

  // How many of `byte_count` bytes in DRAM are for the CPU, in the call that comes.
  uint64_t host_bytes(uint64_t byte_count);

  void add(const ShareTiming& timing);

  // Its part of the stats: rates of late.
  void report(CacheStats& stats) const;

 private:
  static constexpr double kFirstGain = 0.2;
  static constexpr int kPauseMin = 256, kPauseMax = 1 << 15;  // calls: a second; some minutes

  const double fixed_;
  void judge(const ShareTiming& timing);

  double fraction_ = 0.3;
  double gain_ = kFirstGain;  // mean of 1 - time / time of the GPU alone, of late
  int judged_ = 0;            // calls since it was left out
  int left_out_ = 0;          // calls that the CPU is left out of yet
  int next_pause_ = kPauseMin;
  double host_rate_ = 0;
  double device_rate_ = 0;
};

}  // namespace vkv
