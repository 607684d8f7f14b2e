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
// its own, and only what differs from what was put there is written. Tables that are known by a
// number have places by themselves, and are not even compared. For one stream.
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
    uint64_t blocks_id = 0;  // of a kept table
    bool any_rotated = false;
  };
  using Places = std::unordered_map<const void*, Place>;  // by layer

  static Layout layout_of(const AttendPlan& plan);
  Result<Place*> place_for(Places& places, const void* layer, size_t byte_count);
  // Sets the sources' pointers too.
  Status upload_kept(AttendPlan& plan, cudaStream_t stream);
  // Makes the place hold next_.
  Status write_changes(Place& place, cudaStream_t stream);
  Status write(const Place& place, size_t begin, size_t end, cudaStream_t stream);

  bool grows_ = false;
  CudaArray<std::byte> memory_;
  PinnedRing ring_;
  Places places_, kept_;
  size_t used_bytes_ = 0;
  uint64_t clear_count_ = 0;     // how often all places were given up
  std::vector<std::byte> next_;  // what a place shall hold
  uint64_t written_bytes_ = 0;
};

}  // namespace vkv
