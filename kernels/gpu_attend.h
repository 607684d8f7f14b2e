// gpu_attend.h: attention over records and open tokens on the GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attend_launch.h"
#include "kernels/cuda_handles.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// What a call will do, on the host.
struct AttendPlan {
  std::vector<AttendSource> sources;  // `blocks` are indices into `blocks` below until uploaded
  std::vector<AttendTask> tasks;
  std::vector<MergeTask> merges;
  std::vector<BlockView> blocks;
  std::vector<size_t> first_block;  // of each source
  int channels = 0;
  int rows = 0;  // of a slot
  int slot_count = 0;
};

// Cuts the items into tasks for a device that runs `resident` thread blocks at once. Depends on the
// items' shapes and lengths alone, never on where their bytes lie. Errors: kInvalidArgument for
// items of different shapes, kUnsupported for a head_dim without kernels.
Result<AttendPlan> plan_attend(std::span<const AttendItem> items, int resident, int rows);

// Rows of a slot: 4 where no KV head has more query rows than that, else 8.
int slot_rows(std::span<const AttendItem> items);

// Not thread-safe. Owns work memory on the device that was current at make().
class GpuAttend {
 public:
  static Result<GpuAttend> make();

  // As Backend::attend, but queued on the stream. All pointers in the items are the device's or
  // mapped host memory, 16-byte aligned; `blocks` itself is the host's and read during the call.
  // Deterministic: the same items give the same bits, whatever tier their bytes lie in.
  // Errors: those of plan_attend(), kOutOfMemory for work memory, kCuda.
  Status attend(std::span<const AttendItem> items, cudaStream_t stream);

  // The same in two steps, for items that are attended to again and again: only q, out and what
  // pointers point to may change between runs.
  Status prepare(std::span<const AttendItem> items, cudaStream_t stream);
  Status run(cudaStream_t stream);

 private:
  GpuAttend() = default;

  int multiprocessors_ = 0;
  bool overlap_ = false;
  AttendLaunch launch_;
  int channels_ = 0;
  std::vector<std::byte> staged_;  // tables as uploaded; kept until the next call
  CudaArray<std::byte> tables_;
  CudaArray<float> partials_;
  CudaArray<float2> max_and_sum_;
};

}  // namespace vkv
