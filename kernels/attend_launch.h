// attend_launch.h: the attention kernels by their number of channels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/attend_work.h"
#include "vkv/status.h"

namespace vkv {

// Device memory, ready on the stream.
struct AttendLaunch {
  const AttendSource* sources = nullptr;
  const AttendTask* tasks = nullptr;  // [task_count]
  int task_count = 0;
  const MergeTask* merges = nullptr;  // [merge_count]
  int merge_count = 0;
  PartialSlots slots;
  int rows = 0;  // of a slot: 4 or 8
};

// Padded channels of heads that there are kernels for.
inline constexpr int kAttendChannels[] = {32, 64, 96, 128, 256};

// Explicitly instantiated by attend_instance.cu.in.
template <int kChannels>
struct AttendKernels {
  template <int kTiles>
  static Status run(const AttendLaunch& launch, cudaStream_t stream);
  template <int kTiles>
  static Result<int> resident();
};

// Thread blocks of tasks of `rows` rows (4 or 8) that a multiprocessor runs at once. Also lets the
// kernel have its shared memory: to be called once a device before launch_attend().
Result<int> resident_tasks(int channels, int rows);

// Partials of all tasks, then out and lse of all sources. Queued on the stream. resident_tasks()
// was called for these channels and rows.
Status launch_attend(int channels, const AttendLaunch& launch, cudaStream_t stream);

}  // namespace vkv
