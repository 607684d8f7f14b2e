// stream_marks.h: places in the work that is queued on a stream, for who has to wait for them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "kernels/cuda_handles.h"
#include "vkv/status.h"

namespace vkv {

// Numbered from 1. Not thread-safe; on the device that was current at make().
class StreamMarks {
 public:
  StreamMarks() = default;

  // Errors: kCuda.
  static Result<StreamMarks> make() {
    StreamMarks marks;
    for (CudaEvent& event : marks.events_) {
      VKV_TRY_ASSIGN(made, make_event());
      event = std::move(made);
    }
    return Result<StreamMarks>(std::move(marks));
  }

  Status set(cudaStream_t stream) {
    ++last_;
    return cuda_status(cudaEventRecord(event(last_), stream), "cudaEventRecord");
  }
  uint64_t last() const { return last_; }

  Status reach(uint64_t mark) {
    if (mark <= reached_) return {};
    VKV_TRY(cuda_status(cudaEventSynchronize(event(mark)), "cudaEventSynchronize"));
    reached_ = mark;
    return {};
  }
  // Does not wait. What is wrong with the stream, reach() will tell.
  bool is_reached(uint64_t mark) {
    if (mark <= reached_) return true;
    const bool is_done = cudaEventQuery(event(mark)) == cudaSuccess;
    (void)cudaGetLastError();
    if (is_done) reached_ = mark;
    return is_done;
  }
  // Somebody has waited for the stream.
  void all_reached() { reached_ = last_; }

 private:
  // One that was recorded again stands for a later mark, which follows the one asked for.
  cudaEvent_t event(uint64_t mark) const { return events_[mark % events_.size()].get(); }

  std::array<CudaEvent, 64> events_;
  uint64_t last_ = 0, reached_ = 0;
};

}  // namespace vkv
