// share_planner.h: how much of a layer's attention the CPU does beside the GPU.
// SPDX-License-Identifier: Apache-2.0
//
// What lies in DRAM is read by both: the CPU is bound by its memory or its instructions, the GPU by
// its link. Both should be done at the same time. How long each takes is measured call by call, and
// the shares move towards the balance: the CPU's bytes over the GPU's are multiplied by a small
// power of the GPU's time over the CPU's. That needs no model of either, which would have to know
// that a small share costs more a byte; and a path that slows down gets less. The power is small
// because calls are measured several calls after they were planned. Not thread-safe.
#pragma once

#include <cstdint>

#include "runtime/base/backend.h"
#include "vkv/stats.h"

namespace vkv {

class SharePlanner {
 public:
  // fraction: of the bytes, for the CPU; negative: where both paths are done together.
  explicit SharePlanner(double fraction) : fixed_(fraction) {}

  // How many of `byte_count` bytes in DRAM are for the CPU.
  uint64_t host_bytes(uint64_t byte_count) const;

  void add(const ShareTiming& timing);

  // Its part of the stats: bytes so far, and rates of late.
  void report(CacheStats& stats) const;

 private:
  const double fixed_;
  double fraction_ = 0.3;
  uint64_t host_bytes_total_ = 0;
  uint64_t device_bytes_total_ = 0;
  double host_rate_ = 0;
  double device_rate_ = 0;
};

}  // namespace vkv
