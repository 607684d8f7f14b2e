// plain_cuda_cache.cu: causal attention as it is written in books, one block a query and head.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "tests/plain_cuda_cache.h"
#include "tools/mllm/cuda/cuda_values.cuh"

namespace vkv {
namespace {

constexpr int kThreads = 128;

template <class T>
__global__ void plain_attention_kernel(const PlainAttention params, float scale) {
  extern __shared__ float weights[];  // [tokens that the query sees]
  const KvShape& shape = params.shape;
  const int head = blockIdx.y, dim = shape.head_dim;
  const int seen = params.token_count - params.q_len + static_cast<int>(blockIdx.x) + 1;
  const int64_t kv_row = int64_t{shape.kv_heads} * dim;
  const int64_t kv_offset = head / (shape.q_heads / shape.kv_heads) * dim;
  const int64_t q_offset = (int64_t{blockIdx.x} * shape.q_heads + head) * dim;
  const T* const q = static_cast<const T*>(params.q) + q_offset;
  const T* const k = static_cast<const T*>(params.k) + kv_offset;
  const T* const v = static_cast<const T*>(params.v) + kv_offset;

  for (int token = threadIdx.x; token < seen; token += blockDim.x) {
    float score = 0;
    for (int i = 0; i < dim; ++i) score += widened(q[i]) * widened(k[token * kv_row + i]);
    weights[token] = score * scale;
  }
  __syncthreads();
  float greatest = -INFINITY;
  for (int token = 0; token < seen; ++token) greatest = fmaxf(greatest, weights[token]);
  __syncthreads();
  float sum = 0;
  for (int token = threadIdx.x; token < seen; token += blockDim.x)
    sum += weights[token] = expf(weights[token] - greatest);
  sum = block_sum(sum);  // synchronises: the weights are there

  for (int i = threadIdx.x; i < dim; i += blockDim.x) {
    float value = 0;
    for (int token = 0; token < seen; ++token)
      value += weights[token] * widened(v[token * kv_row + i]);
    store(value / sum, static_cast<T*>(params.out) + q_offset + i);
  }
}

}  // namespace

Status launch_plain_attention(const PlainAttention& attention, cudaStream_t stream) {
  const auto kernel = attention.element == ElementType::kF32
                          ? plain_attention_kernel<float>
                          : plain_attention_kernel<__nv_bfloat16>;
  const dim3 grid(static_cast<unsigned>(attention.q_len),
                  static_cast<unsigned>(attention.shape.q_heads));
  const float scale = 1.0f / std::sqrt(static_cast<float>(attention.shape.head_dim));
  const size_t shared_bytes = static_cast<size_t>(attention.token_count) * sizeof(float);
  kernel<<<grid, kThreads, shared_bytes, stream>>>(attention, scale);
  return launch_status("plain_attention_kernel");
}

}  // namespace vkv
