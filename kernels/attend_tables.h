// attend_tables.h: what the attention kernels shall do, on the device, kept from call to call.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <unordered_map>
#include <vector>

#include "kernels/attend_launch.h"
#include "kernels/attend_plan.h"
#include "kernels/cuda_handles.h"
#include "kernels/pinned_ring.h"

namespace vkv {

// From one step to the next a layer's table of blocks stays, and so does how its work is cut; its
// number of open tokens does not. So each layer, known by where its open tokens lie, has a place of
// its own, and only what differs from what was put there is written. For one stream.
class AttendTables {
 public:
  // On the current device. byte_count 0: grows with the calls. Errors: kOutOfMemory, kCuda.
  static Result<AttendTables> make(size_t byte_count);

  // Queues what has to be written. The result is valid for work queued on the stream before the
  // next call. Without slots. Errors: kOutOfMemory for a plan larger than all of the memory, kCuda.
  Result<AttendLaunch> upload(AttendPlan& plan, cudaStream_t stream);

  uint64_t device_bytes() const { return memory_.size(); }
  uint64_t written_bytes() const { return written_bytes_; }  // so far

 private:
  // Parts of a place, in the order of how seldom they change.
  struct Layout {
    size_t tasks = 0, merges = 0, sources = 0, end = 0;  // bytes from its begin
  };
  struct Place {
    size_t begin = 0, byte_count = 0;
    std::vector<std::byte> written;
  };

  static Layout layout_of(const AttendPlan& plan);
  Result<Place*> place_for(const void* layer, size_t byte_count);
  Status write(const Place& place, size_t begin, size_t end, cudaStream_t stream);

  bool grows_ = false;
  CudaArray<std::byte> memory_;
  PinnedRing ring_;
  std::unordered_map<const void*, Place> places_;
  size_t used_bytes_ = 0;
  std::vector<std::byte> next_;  // what a place shall hold
  uint64_t written_bytes_ = 0;
};

}  // namespace vkv
