// prefill_rows.cu: queries to fp16; partial outputs of a library merged.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda_handles.h"
#include "kernels/half_range.cuh"
#include "kernels/prefill_work.h"
#include "runtime/base/lse.h"

namespace vkv {
namespace {

constexpr int kThreads = 256;

__device__ uint2 packed(const __half (&four)[4]) { return *reinterpret_cast<const uint2*>(four); }

// A thread takes four channels.
__global__ void __launch_bounds__(kThreads)
    queries_kernel(const __grid_constant__ PrefillQueries queries, size_t quad_count) {
  const size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x;
  if (i == 0) {
    queries.counts[0] = queries.query_count;
    queries.counts[1] = max(*queries.piece_tokens - queries.hidden_tokens, 0);
  }
  if (i >= quad_count) return;
  const float scale = queries.scale * excess(queries.magnitude[0]);
  const float4 q = reinterpret_cast<const float4*>(queries.q)[i];
  const __half four[4] = {finite_half(scale * q.x), finite_half(scale * q.y),
                          finite_half(scale * q.z), finite_half(scale * q.w)};
  reinterpret_cast<uint2*>(queries.q_half)[i] = packed(four);
}

// A warp takes a row: a query of a head.
__global__ void __launch_bounds__(kThreads)
    merge_rows_kernel(const __grid_constant__ PrefillPartial partial) {
  const int row = static_cast<int>(blockIdx.x * (kThreads / 32) + threadIdx.x / 32);
  const int lane = threadIdx.x % 32, q_heads = partial.shape.q_heads;
  if (row >= partial.query_count * q_heads) return;
  const int head = row % q_heads, query = row / q_heads;
  const size_t at = static_cast<size_t>(row) * partial.shape.head_dim;
  const float own = *partial.token_count == 0
                        ? -INFINITY
                        : partial.lse[static_cast<size_t>(head) * partial.query_count_max + query];
  const float before = partial.first ? -INFINITY : partial.merged_lse[row];
  const MergeWeights weights = merge_weights(before, own);
  const float own_weight = weights.b * excess(partial.magnitude[1]);
  for (int channel = lane * 4; channel < partial.shape.head_dim; channel += 128) {
    float4 sum = {};
    auto* const target = reinterpret_cast<float4*>(partial.merged_out + at + channel);
    if (weights.a != 0.0f) {
      sum = *target;
      sum = {weights.a * sum.x, weights.a * sum.y, weights.a * sum.z, weights.a * sum.w};
    }
    if (weights.b != 0.0f) {
      const auto* const halves = reinterpret_cast<const __half2*>(partial.out + at + channel);
      const float2 low = __half22float2(halves[0]), high = __half22float2(halves[1]);
      sum = {sum.x + own_weight * low.x, sum.y + own_weight * low.y, sum.z + own_weight * high.x,
             sum.w + own_weight * high.y};
    }
    *target = sum;
  }
  __syncwarp();  // all have read the lse before
  if (lane == 0) partial.merged_lse[row] = weights.lse;
}

}  // namespace

Status launch_prefill_queries(const PrefillQueries& queries, cudaStream_t stream) {
  const size_t quads = static_cast<size_t>(queries.query_count) *
                       static_cast<size_t>(queries.shape.q_heads * queries.shape.head_dim) / 4;
  const auto blocks = static_cast<unsigned>((quads + kThreads - 1) / kThreads);
  queries_kernel<<<blocks, kThreads, 0, stream>>>(queries, quads);
  return launch_status("prefill queries");
}

Status launch_prefill_merge(const PrefillPartial& partial, cudaStream_t stream) {
  const int rows = partial.query_count * partial.shape.q_heads;
  const int blocks = (rows + kThreads / 32 - 1) / (kThreads / 32);
  merge_rows_kernel<<<blocks, kThreads, 0, stream>>>(partial);
  return launch_status("prefill merge");
}

}  // namespace vkv
