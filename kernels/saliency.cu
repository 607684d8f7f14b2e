// saliency.cu: what each open token is looked at, and how far keys lie from their mean.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda_handles.h"
#include "kernels/encode_kernels.h"
#include "kernels/encode_values.cuh"

namespace vkv {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;           // tokens, and rows of q: four by four a thread
constexpr int kChunk = 32;          // channels in shared memory at once
constexpr int kStride = kTile + 4;  // floats

__device__ float value_of(const OpenTokens& open, const uint16_t* values, size_t at) {
  return float_from_bits(values[at], open.codec == Codec::kBf16);
}

struct TileOfScores {
  float keys[kChunk][kStride], queries[kChunk][kStride];
};

// Channels [begin, begin + kChunk) of a tile's keys, minus the mean, and of a tile of rows of q.
__device__ void load_chunk(const SaliencyItem& item, int kv_head, int token_begin, int row_begin,
                           int begin, TileOfScores& shared) {
  const int head_dim = item.shape.head_dim, group = item.shape.q_heads / item.shape.kv_heads;
  for (int i = threadIdx.x; i < kTile * kChunk; i += kThreads) {
    const int c = i % kChunk, at = i / kChunk, channel = begin + c;
    const int token = token_begin + at, row = row_begin + at;
    float key = 0.0f, query = 0.0f;
    if (token < item.open.token_count && channel < head_dim) {
      const size_t head = static_cast<size_t>(token) * item.shape.kv_heads + kv_head;
      key = value_of(item.open, item.open.k, head * head_dim + channel);
      if (item.k_mean != nullptr) key -= item.k_mean[kv_head * head_dim + channel];
    }
    if (row < item.q_len * group && channel < head_dim) {
      const size_t head =
          static_cast<size_t>(row / group) * item.shape.q_heads + kv_head * group + row % group;
      query = item.q[head * head_dim + channel];
    }
    shared.keys[c][at] = key;
    shared.queries[c][at] = query;
  }
}

// weights: [kv_heads, token_count], the softmax weight that a token gets from the query heads of
// each KV head.
__global__ void __launch_bounds__(kThreads)
    weights_kernel(const SaliencyItem item, float* weights) {
  __shared__ TileOfScores shared;
  const int token_begin = static_cast<int>(blockIdx.x) * kTile, kv_head = blockIdx.y;
  const int group = item.shape.q_heads / item.shape.kv_heads, row_count = item.q_len * group;
  const int my_token = threadIdx.x % 16 * 4, my_row = threadIdx.x / 16 * 4;
  float sums[4] = {};
  for (int row_begin = 0; row_begin < row_count; row_begin += kTile) {
    // 1. Sixteen scores.
    float scores[4][4] = {};
    for (int begin = 0; begin < item.shape.head_dim; begin += kChunk) {
      __syncthreads();
      load_chunk(item, kv_head, token_begin, row_begin, begin, shared);
      __syncthreads();
#pragma unroll 8
      for (int c = 0; c < kChunk; ++c) {
        const float4 k = *reinterpret_cast<const float4*>(&shared.keys[c][my_token]);
        const float4 q = *reinterpret_cast<const float4*>(&shared.queries[c][my_row]);
        const float keys[4] = {k.x, k.y, k.z, k.w}, queries[4] = {q.x, q.y, q.z, q.w};
        for (int r = 0; r < 4; ++r)
          for (int t = 0; t < 4; ++t) scores[r][t] += queries[r] * keys[t];
      }
    }

    // 2. Their weights, where the query sees the token.
    for (int r = 0; r < 4; ++r) {
      const int row = row_begin + my_row + r, query = row / group;
      if (row >= row_count) continue;
      const float lse = item.lse[query * item.shape.q_heads + kv_head * group + row % group];
      const int hidden = item.causal ? item.q_len - query - 1 : 0;  // tokens after its own
      for (int t = 0; t < 4; ++t)
        if (token_begin + my_token + t < item.open.token_count - hidden)
          sums[t] += expf(item.scale * scores[r][t] - lse);
    }
  }

  // 3. Over the sixteen threads of a token, in a fixed order.
  __syncthreads();
  for (int t = 0; t < 4; ++t) shared.keys[threadIdx.x / 16][my_token + t] = sums[t];
  __syncthreads();
  const int token = token_begin + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= kTile || token >= item.open.token_count) return;
  float weight = 0.0f;
  for (int i = 0; i < kThreads / 16; ++i) weight += shared.keys[i][threadIdx.x];
  weights[static_cast<size_t>(kv_head) * item.open.token_count + token] = weight;
}

// mean: [kv_heads, head_dim] of V, a block for 32 of them.
__global__ void mean_value_kernel(const OpenTokens open, int width, float* mean) {
  __shared__ double sums[8][32];
  const int value = static_cast<int>(blockIdx.x) * 32 + threadIdx.x % 32;
  double sum = 0;
  if (value < width)
    for (int t = threadIdx.x / 32; t < open.token_count; t += 8)
      sum += double{value_of(open, open.v, static_cast<size_t>(t) * width + value)};
  sums[threadIdx.x / 32][threadIdx.x % 32] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || value >= width) return;
  for (int i = 1; i < 8; ++i) sum += sums[i][threadIdx.x];
  mean[value] = static_cast<float>(sum / open.token_count);
}

// A warp a token.
__global__ void score_kernel(const SaliencyItem item, const float* weights, const float* v_mean) {
  const int token = static_cast<int>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (token >= item.open.token_count) return;
  const int width = item.shape.kv_heads * item.shape.head_dim;
  double sum = 0;
  for (int c = threadIdx.x % 32; c < width; c += 32) {
    const double difference =
        double{value_of(item.open, item.open.v, static_cast<size_t>(token) * width + c)} -
        double{v_mean[c]};
    sum += difference * difference;
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (threadIdx.x % 32 != 0) return;
  float weight = 0.0f;
  for (int head = 0; head < item.shape.kv_heads; ++head)
    weight += weights[static_cast<size_t>(head) * item.open.token_count + token];
  const float rows = static_cast<float>(item.q_len) * static_cast<float>(item.shape.q_heads);
  item.score[token] = weight / rows * static_cast<float>(sqrt(sum));
}

// A warp a row and KV head.
__global__ void squared_distances_kernel(const EncodePart part, float* distances) {
  const size_t index = static_cast<size_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (index >= static_cast<size_t>(part.row_count) * part.kv_heads) return;
  const int kv_head = static_cast<int>(index % part.kv_heads);
  const uint16_t* key = part.token(kv_head, static_cast<int>(index / part.kv_heads));
  float sum = 0.0f;
  for (int c = threadIdx.x % 32; c < part.head_dim; c += 32) {
    const float difference =
        float_from_bits(key[c], part.bfloat) - part.mean[kv_head * part.head_dim + c];
    sum += difference * difference;
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (threadIdx.x % 32 == 0) distances[index] = sum;
}

size_t width_of(const KvShape& shape) {
  return static_cast<size_t>(shape.kv_heads) * static_cast<size_t>(shape.head_dim);
}

uint32_t blocks_for(size_t warps) {
  return static_cast<uint32_t>((warps + kThreads / 32 - 1) / (kThreads / 32));
}

}  // namespace

size_t saliency_room(const SaliencyItem& item) {
  return width_of(item.shape) +
         static_cast<size_t>(item.shape.kv_heads) * static_cast<size_t>(item.open.token_count);
}

Status launch_saliency(const SaliencyItem& item, float* room, cudaStream_t stream) {
  const int width = static_cast<int>(width_of(item.shape));
  const float* v_mean = item.v_mean;
  if (v_mean == nullptr) {
    mean_value_kernel<<<static_cast<uint32_t>((width + 31) / 32), kThreads, 0, stream>>>(
        item.open, width, room);
    VKV_TRY(launch_status("mean_value_kernel"));
    v_mean = room;
  }
  float* weights = room + width;
  const dim3 grid(static_cast<uint32_t>((item.open.token_count + kTile - 1) / kTile),
                  static_cast<uint32_t>(item.shape.kv_heads));
  weights_kernel<<<grid, kThreads, 0, stream>>>(item, weights);
  VKV_TRY(launch_status("weights_kernel"));
  const size_t tokens = static_cast<size_t>(item.open.token_count);
  score_kernel<<<blocks_for(tokens), kThreads, 0, stream>>>(item, weights, v_mean);
  return launch_status("score_kernel");
}

Status launch_squared_distances(const EncodePart& part, float* distances, cudaStream_t stream) {
  const size_t warps = static_cast<size_t>(part.row_count) * static_cast<size_t>(part.kv_heads);
  squared_distances_kernel<<<blocks_for(warps), kThreads, 0, stream>>>(part, distances);
  return launch_status("squared_distances_kernel");
}

}  // namespace vkv
