// side_stream.h: a stream for work that shall not delay the main one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "kernels/cuda_handles.h"

namespace vkv {

// Stretches of work between begin() and end(): each follows what is queued on the main stream when
// its first work is, and the stretches before it. The main stream goes on beside it until join().
class SideStream {
 public:
  // Without make(): everything stays on the main stream.
  explicit SideStream(cudaStream_t main = nullptr) : main_(main) {}

  // Of the current device. Errors: kCuda.
  static Result<SideStream> make(cudaStream_t main) {
    SideStream side(main);
    VKV_TRY_ASSIGN(stream, make_stream());
    side.stream_ = std::move(stream);
    VKV_TRY_ASSIGN(begun, make_event());
    side.begun_ = std::move(begun);
    for (CudaEvent& event : side.ended_) {
      VKV_TRY_ASSIGN(ended, make_event());
      event = std::move(ended);
    }
    return Result<SideStream>(std::move(side));
  }

  void begin() { inside_ = stream_.get() != nullptr; }

  // Where work goes now.
  Result<cudaStream_t> current() {
    if (!inside_) return main_;
    if (!working_) VKV_TRY(order(main_, begun_, stream_.get()));
    working_ = true;
    return stream_.get();
  }

  // What join() waits for. 0: nothing was queued.
  Result<uint64_t> end() {
    inside_ = false;
    if (!working_) return uint64_t{0};
    working_ = false;
    ++last_;
    VKV_TRY(cuda_status(cudaEventRecord(ended(last_), stream_.get()), "cudaEventRecord"));
    return last_;
  }

  // What is queued on the main stream from now on follows that stretch, and those before it.
  Status join(uint64_t stretch) {
    if (stretch <= joined_) return {};
    joined_ = stretch;
    return cuda_status(cudaStreamWaitEvent(main_, ended(stretch), 0), "cudaStreamWaitEvent");
  }

  cudaStream_t stream() const { return stream_.get(); }  // nullptr without make()
  uint64_t last() const { return last_; }
  bool inside() const { return inside_; }

 private:
  // An event that was recorded again stands for a later stretch, which follows the one asked for.
  cudaEvent_t ended(uint64_t stretch) const { return ended_[stretch % ended_.size()].get(); }

  cudaStream_t main_ = nullptr;
  CudaStream stream_;
  CudaEvent begun_;
  std::array<CudaEvent, 64> ended_;  // of the last so many stretches
  bool inside_ = false, working_ = false;
  uint64_t last_ = 0, joined_ = 0;
};

}  // namespace vkv
