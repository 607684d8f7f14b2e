// gpu_attend.h: attention over records and open tokens on the GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <span>
#include <utility>

#include "kernels/attend_launch.h"
#include "kernels/attend_plan.h"
#include "kernels/attend_tables.h"
#include "kernels/cuda_handles.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

struct GpuAttendOptions {
  int head_dim = 0;        // that there will be; 0: any
  int64_t slots_max = 0;   // partials of a call; 0: memory grows with the calls
  size_t table_bytes = 0;  // of all layers together; 0: grows likewise
};

// Not thread-safe, and for one stream. Owns work memory on the device that was current at make().
class GpuAttend {
 public:
  // Errors: kUnsupported for a head_dim without kernels, kOutOfMemory, kCuda.
  static Result<GpuAttend> make(const GpuAttendOptions& options = {});

  // As Backend::attend, but queued on the stream. All pointers in the items are the device's or
  // mapped host memory, 16-byte aligned; `blocks` itself is the host's and read during the call.
  // Deterministic: the same items give the same bits, whatever tier their bytes lie in.
  // Errors: those of plan_attend(), kOutOfMemory for work memory, kCuda.
  Status attend(std::span<const AttendItem> items, cudaStream_t stream);

  // The same in two steps, for items that are attended to again and again: only q, out and what
  // pointers point to may change between runs.
  Status prepare(std::span<const AttendItem> items, cudaStream_t stream);
  Status run(cudaStream_t stream);

  // Thread blocks of tasks of `rows` rows, 4 or 8, that the device runs at once.
  Result<int> resident(int channels, int rows);
  uint64_t device_bytes() const {
    return tables_.device_bytes() + partials_.size() * sizeof(float) +
           max_and_sum_.size() * sizeof(float2);
  }
  uint64_t written_table_bytes() const { return tables_.written_bytes(); }  // so far

 private:
  explicit GpuAttend(AttendTables tables) : tables_(std::move(tables)) {}
  Status reserve_slots(int slot_count, int rows, int channels);

  int multiprocessors_ = 0;
  bool grows_ = false;
  std::map<std::pair<int, int>, int> resident_;  // of channels and rows, asked once
  AttendLaunch launch_;
  int channels_ = 0;
  AttendTables tables_;
  CudaArray<float> partials_;
  CudaArray<float2> max_and_sum_;
};

// Padded channels of a head. Errors: kUnsupported naming the heads that there are kernels for.
Result<int> kernel_channels(int head_dim);

}  // namespace vkv
