// merge.cu: a warp merges a row.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda_handles.h"
#include "kernels/host_words.cuh"
#include "kernels/merge.h"
#include "runtime/base/lse.h"

namespace vkv {
namespace {

constexpr int kThreads = 128;
constexpr int kLaneChannels = kHeadDimMax / 32;
constexpr size_t kPartialsMax = 128;  // of a launch: its parameters hold them

struct MergeRows {
  PartialView partials[kPartialsMax];
  int partial_count;
  int head_dim;
  size_t row_count;
  float* out;
  float* lse;
  HostResults host;
};

// By all threads of a thread block.
__device__ inline void wait_for_results(const HostResults& host) {
  if (host.words == nullptr) return;
  if (threadIdx.x == 0) {
    const uint64_t begin = device_ns();
    wait_for_host(&host.words->done, host.number);
    if (blockIdx.x == 0) {
      host.words->joined_ns = begin;
      host.words->merged_ns = device_ns();
    }
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) merge_kernel(const __grid_constant__ MergeRows work) {
  wait_for_results(work.host);
  const size_t row = blockIdx.x * size_t{kThreads / 32} + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= work.row_count) return;

  float lse = -INFINITY;
  float out[kLaneChannels] = {};
  for (int i = 0; i < work.partial_count; ++i) {
    const MergeWeights weights = merge_weights(lse, work.partials[i].lse[row]);
    lse = weights.lse;
    if (weights.b == 0.0f) continue;
    const float* values = work.partials[i].out + row * static_cast<size_t>(work.head_dim);
#pragma unroll
    for (int j = 0; j < kLaneChannels; ++j)
      if (lane + 32 * j < work.head_dim)
        out[j] = weights.a * out[j] + weights.b * values[lane + 32 * j];
  }
  __syncwarp();  // all have read what may be overwritten now
  float* target = work.out + row * static_cast<size_t>(work.head_dim);
#pragma unroll
  for (int j = 0; j < kLaneChannels; ++j)
    if (lane + 32 * j < work.head_dim) target[lane + 32 * j] = out[j];
  if (lane == 0) work.lse[row] = lse;
}

Status launch_rows(const MergeRows& work, cudaStream_t stream) {
  const size_t blocks = (work.row_count + kThreads / 32 - 1) / (kThreads / 32);
  merge_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(work);
  return launch_status("merge_kernel of partials");
}

}  // namespace

Status launch_merge(const MergeItem& item, cudaStream_t stream, const HostResults& host) {
  if (item.row_count == 0) return {};
  MergeRows work{};
  work.head_dim = item.head_dim;
  work.row_count = item.row_count;
  work.out = item.out;
  work.lse = item.lse;
  work.host = host;
  size_t done = 0;
  do {
    // What the launch before made of its partials is the first of the next.
    size_t count = 0;
    if (done > 0) work.partials[count++] = {item.out, item.lse};
    while (count < kPartialsMax && done < item.partials.size())
      work.partials[count++] = item.partials[done++];
    work.partial_count = static_cast<int>(count);
    VKV_TRY(launch_rows(work, stream));
  } while (done < item.partials.size());
  return {};
}

}  // namespace vkv
