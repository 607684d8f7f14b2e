// attend_launch.cu: chooses a kernel; merges partials.
// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "kernels/attend_launch.h"
#include "kernels/overlapped_launch.cuh"

namespace vkv {

namespace {

constexpr int kMergeThreads = 256;
constexpr int kSlotsAtOnce = 16;  // of a thread, on the way before any maximum is known

// Maximum and sum of p of two sets of tokens -> of both.
__device__ inline float2 join(float2 a, float2 b) {
  const float max = fmaxf(a.x, b.x);
  if (max == -INFINITY) return a;
  return {max, a.y * exp2f(a.x - max) + b.y * exp2f(b.x - max)};
}

// A thread block merges one row of one merge task: each thread four channels of some of the slots.
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(const AttendSource* sources, const MergeTask* tasks, PartialSlots slots, int rows,
                 int channels) {
  let_next_begin();
  wait_for_previous();
  const MergeTask task = tasks[blockIdx.x];
  const AttendSource& source = sources[task.source];
  const int group = source.q_heads / source.kv_heads;
  const int row = task.row_begin + blockIdx.y;
  const int quads = channels / 4, ways = kMergeThreads / quads;
  const int quad = threadIdx.x % quads, way = threadIdx.x / quads;
  const float2* parts = slots.max_and_sum + blockIdx.y;
  const auto values = [&](int slot) {
    return *reinterpret_cast<const float4*>(
        slots.out + (static_cast<size_t>(slot) * rows + blockIdx.y) * channels + 4 * quad);
  };
  const auto max_of = [&](int slot) { return parts[static_cast<size_t>(slot) * rows].x; };
  if (row >= source.q_len * group) return;

  // 1. First slots of all threads, all at once.
  const int begin = task.slot_begin + way, end = way < ways ? task.slot_end : 0;
  float4 first[kSlotsAtOnce];
  float first_max[kSlotsAtOnce];
#pragma unroll
  for (int i = 0; i < kSlotsAtOnce; ++i) {
    const bool exists = begin + i * ways < end;
    first[i] = exists ? values(begin + i * ways) : float4{};
    first_max[i] = exists ? max_of(begin + i * ways) : -INFINITY;
  }

  // 2. Maximum and sum of all slots.
  float2 all = {-INFINITY, 0.0f};
  for (int slot = task.slot_begin + threadIdx.x; slot < task.slot_end; slot += kMergeThreads)
    all = join(all, parts[static_cast<size_t>(slot) * rows]);
  __shared__ float2 of_warp[kMergeThreads / 32];
  for (int step = 1; step < 32; step *= 2)
    all = join(all, {__shfl_xor_sync(~0u, all.x, step), __shfl_xor_sync(~0u, all.y, step)});
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = all;
  __syncthreads();
  all = of_warp[0];
  for (int warp = 1; warp < kMergeThreads / 32; ++warp) all = join(all, of_warp[warp]);

  // 3. The sum over slots.
  float4 out = {};
  const auto add = [&](float max, const float4& value) {
    const float weight = max == -INFINITY ? 0.0f : exp2f(max - all.x);
    out.x += weight * value.x;
    out.y += weight * value.y;
    out.z += weight * value.z;
    out.w += weight * value.w;
  };
#pragma unroll
  for (int i = 0; i < kSlotsAtOnce; ++i) add(first_max[i], first[i]);
#pragma unroll 4
  for (int slot = begin + kSlotsAtOnce * ways; slot < end; slot += ways)
    add(max_of(slot), values(slot));
  __shared__ float4 of_thread[kMergeThreads];
  of_thread[threadIdx.x] = out;
  __syncthreads();

  const size_t head =
      static_cast<size_t>(row / group) * source.q_heads + task.kv_head * group + row % group;
  if (way == 0 && 4 * quad < source.head_dim) {
    for (int other = 1; other < ways; ++other) {
      const float4 more = of_thread[other * quads + quad];
      out = {out.x + more.x, out.y + more.y, out.z + more.z, out.w + more.w};
    }
    const float inverse = all.y > 0.0f ? 1.0f / all.y : 0.0f;
    *reinterpret_cast<float4*>(source.out + head * source.head_dim + 4 * quad) = {
        out.x * inverse, out.y * inverse, out.z * inverse, out.w * inverse};
  }
  constexpr float kLn2 = 0.693147180559945309417f;
  if (threadIdx.x == 0) source.lse[head] = all.y > 0.0f ? (all.x + log2f(all.y)) * kLn2 : -INFINITY;
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
  return launch_overlapped("merge", merge_kernel, {.grid = grid, .block = dim3(kMergeThreads)},
                           stream, launch.sources, launch.merges, launch.slots, launch.rows,
                           channels);
}

}  // namespace vkv
