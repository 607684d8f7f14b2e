// trace_range.h: names for stretches of host time, for Nsight Systems.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nvtx3/nvToolsExt.h>

namespace vkv {

// Without a tool attached a range costs a load and a branch.
class TraceRange {
 public:
  explicit TraceRange(const char* name) { nvtxRangePushA(name); }
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
  ~TraceRange() { nvtxRangePop(); }
};

}  // namespace vkv
