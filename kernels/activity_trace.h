// activity_trace.h: what GPU, copy engines and CPU did, on one time line.
// SPDX-License-Identifier: Apache-2.0
//
// Kernels and copies are recorded by CUPTI, ranges of host time by what TraceRange tells NVTX; both
// on one clock. CUPTI belongs to the CUDA toolkit: its library is looked for when a trace is asked
// for, and without it nothing else changes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "vkv/status.h"

namespace vkv {

struct ActivitySpan {
  enum class Place : uint8_t { kKernel, kCopy, kHost };
  Place place = Place::kKernel;
  uint64_t track = 0;  // the stream of a kernel or copy; the thread of a range
  std::string name;
  uint64_t begin_ns = 0, end_ns = 0;  // since 1970
  uint64_t byte_count = 0;            // of a copy
};

// One at a time in a process.
class ActivityTrace {
 public:
  // Before the process's first TraceRange, so that NVTX knows where ranges go. Errors:
  // kUnsupported, naming what is missing.
  static Status prepare();

  // Records from now on, until end(), which waits for the device. Costs some microseconds a kernel.
  // Errors: kInvalidArgument without prepare() or where a trace is under way; kCuda.
  static Result<std::unique_ptr<ActivityTrace>> begin();
  Result<std::vector<ActivitySpan>> end();  // once; by time of beginning
  ~ActivityTrace();
  ActivityTrace(const ActivityTrace&) = delete;
  ActivityTrace& operator=(const ActivityTrace&) = delete;

 private:
  ActivityTrace() = default;
  bool ended_ = false;
};

}  // namespace vkv
