// attend_launch.cu: chooses a kernel; merges partials.
// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "kernels/attend_launch.h"
#include "kernels/cuda_handles.h"

namespace vkv {

namespace {

constexpr int kMergeThreads = 128;

// A thread block merges one row of one merge task: weights first, then a channel a thread.
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(const AttendSource* sources, const MergeTask* tasks, PartialSlots slots, int rows,
                 int channels) {
  const MergeTask task = tasks[blockIdx.x];
  const AttendSource& source = sources[task.source];
  const int group = source.q_heads / source.kv_heads;
  const int row = task.row_begin + blockIdx.y;
  if (row >= source.q_len * group) return;

  __shared__ float warp_values[kMergeThreads / 32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto all = [&](float value, auto combine) {
    for (int step = 1; step < 32; step *= 2)
      value = combine(value, __shfl_xor_sync(~0u, value, step));
    __syncthreads();
    if (lane == 0) warp_values[warp] = value;
    __syncthreads();
    value = warp_values[0];
    for (int w = 1; w < kMergeThreads / 32; ++w) value = combine(value, warp_values[w]);
    return value;
  };
  const float2* parts = slots.max_and_sum + blockIdx.y;
  float max = -INFINITY, sum = 0.0f;
  for (int slot = task.slot_begin + threadIdx.x; slot < task.slot_end; slot += kMergeThreads)
    max = fmaxf(max, parts[static_cast<size_t>(slot) * rows].x);
  max = all(max, [](float a, float b) { return fmaxf(a, b); });
  for (int slot = task.slot_begin + threadIdx.x; slot < task.slot_end; slot += kMergeThreads) {
    const float2 part = parts[static_cast<size_t>(slot) * rows];
    if (part.x != -INFINITY) sum += part.y * exp2f(part.x - max);
  }
  sum = all(sum, [](float a, float b) { return a + b; });

  const size_t head =
      static_cast<size_t>(row / group) * source.q_heads + task.kv_head * group + row % group;
  const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
  for (int channel = threadIdx.x; channel < source.head_dim; channel += kMergeThreads) {
    float out = 0.0f;
#pragma unroll 8
    for (int slot = task.slot_begin; slot < task.slot_end; ++slot) {
      const float part_max = parts[static_cast<size_t>(slot) * rows].x;
      const float weight = part_max == -INFINITY ? 0.0f : exp2f(part_max - max);
      out +=
          weight * slots.out[(static_cast<size_t>(slot) * rows + blockIdx.y) * channels + channel];
    }
    source.out[head * source.head_dim + channel] = out * inverse;
  }
  constexpr float kLn2 = 0.693147180559945309417f;
  if (threadIdx.x == 0) source.lse[head] = sum > 0.0f ? (max + log2f(sum)) * kLn2 : -INFINITY;
}

// Calls action with the kernels of so many channels.
template <class Action>
auto with_kernels(int channels, const Action& action) -> decltype(action(AttendKernels<32>())) {
  switch (channels) {
    case 32:
      return action(AttendKernels<32>());
    case 64:
      return action(AttendKernels<64>());
    case 96:
      return action(AttendKernels<96>());
    case 128:
      return action(AttendKernels<128>());
    case 256:
      return action(AttendKernels<256>());
  }
  return Status(Code::kUnsupported, "heads of " + std::to_string(channels) +
                                        " padded channels; there are GPU kernels for 32, 64, 96, "
                                        "128 and 256");
}

}  // namespace

Result<int> resident_tasks(int channels, int rows) {
  return with_kernels(channels, [&](auto kernels) -> Result<int> {
    return rows == 4 ? kernels.template resident<1>() : kernels.template resident<2>();
  });
}

Status launch_attend(int channels, const AttendLaunch& launch, cudaStream_t stream) {
  VKV_TRY(with_kernels(channels, [&](auto kernels) -> Status {
    if (launch.task_count == 0) return {};
    return launch.rows == 4 ? kernels.template run<1>(launch, stream)
                            : kernels.template run<2>(launch, stream);
  }));
  const dim3 grid(launch.merge_count, launch.rows);
  merge_kernel<<<grid, kMergeThreads, 0, stream>>>(launch.sources, launch.merges, launch.slots,
                                                   launch.rows, channels);
  return launch_status("merge");
}

}  // namespace vkv
