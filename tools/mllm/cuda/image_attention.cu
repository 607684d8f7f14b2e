// image_attention.cu: attention inside pictures in fp32, which is what comparisons use.
// SPDX-License-Identifier: Apache-2.0
//
// A block has 16 queries of one head, four a warp, and walks over the keys in tiles of 32: first a
// lane has a key and finds its scores, then a lane has every 32nd channel and sums values.
#include <cmath>

#include "kernels/cuda_handles.h"
#include "tools/mllm/cuda/image_attention.h"

namespace vkv {
namespace {

constexpr int kWarps = 4;
constexpr int kQueries = 4;  // a warp
constexpr int kKeys = 32;    // a tile: one a lane

// kSteps: channels of a lane; the head has up to 32 * kSteps.
template <int kSteps>
__global__ void __launch_bounds__(kWarps * 32)
    image_attention_kernel(const ImageAttentionParams<float> params, float scale) {
  constexpr int kChannels = 32 * kSteps;
  constexpr int kRow = kChannels + 4;  // so that float4s of 8 neighbouring keys miss no bank
  __shared__ __align__(16) float k_tile[kKeys][kRow];
  __shared__ float v_tile[kKeys][kChannels];
  __shared__ __align__(16) float q_tile[kWarps * kQueries][kChannels];

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int dim = params.head_dim;
  const int64_t width = int64_t{params.heads} * dim;
  const int head = blockIdx.y;
  const int64_t image = blockIdx.z;
  const int first_query = blockIdx.x * kWarps * kQueries;
  const float* const image_qkv = params.qkv + image * params.positions * 3 * width + head * dim;

  // Channels behind the head's last are zero: they change no score.
  for (int i = threadIdx.x; i < kWarps * kQueries * kChannels; i += blockDim.x) {
    const int row = i / kChannels, channel = i % kChannels, query = first_query + row;
    q_tile[row][channel] = query < params.positions && channel < dim
                               ? image_qkv[query * 3 * width + channel] * scale
                               : 0.0f;
  }

  float greatest[kQueries], sum[kQueries], out[kQueries][kSteps] = {};
  for (int query = 0; query < kQueries; ++query) greatest[query] = -INFINITY, sum[query] = 0;

  for (int first_key = 0; first_key < params.positions; first_key += kKeys) {
    const int keys = min(kKeys, params.positions - first_key);
    // 1. The tile. Rows behind the last key are zero: their values are multiplied by zero.
    __syncthreads();
    for (int i = threadIdx.x; i < kKeys * kChannels; i += blockDim.x) {
      const int row = i / kChannels, channel = i % kChannels;
      const bool inside = row < keys && channel < dim;
      const float* const source = image_qkv + (first_key + row) * 3 * width + width + channel;
      k_tile[row][channel] = inside ? source[0] : 0.0f;
      v_tile[row][channel] = inside ? source[width] : 0.0f;
    }
    __syncthreads();

    // 2. Scores: one key a lane.
    float score[kQueries] = {};
    for (int channel = 0; channel < dim; channel += 4) {
      const float4 k = *reinterpret_cast<const float4*>(&k_tile[lane][channel]);
      for (int query = 0; query < kQueries; ++query) {
        const float4 q =
            *reinterpret_cast<const float4*>(&q_tile[warp * kQueries + query][channel]);
        score[query] += q.x * k.x + q.y * k.y + q.z * k.z + q.w * k.w;
      }
    }

    // 3. Weights, relative to the greatest score so far.
    for (int query = 0; query < kQueries; ++query) {
      float top = lane < keys ? score[query] : -INFINITY;
      for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
      top = fmaxf(top, greatest[query]);
      const float shrink = expf(greatest[query] - top);  // 0 at the first tile
      greatest[query] = top;
      score[query] = lane < keys ? expf(score[query] - top) : 0.0f;
      float total = score[query];
      for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
      sum[query] = sum[query] * shrink + total;
      for (int i = 0; i < kSteps; ++i) out[query][i] *= shrink;
    }

    // 4. Values: every 32nd channel a lane.
    for (int key = 0; key < keys; ++key) {
      float v[kSteps];
      for (int i = 0; i < kSteps; ++i) v[i] = v_tile[key][i * 32 + lane];
      for (int query = 0; query < kQueries; ++query) {
        const float weight = __shfl_sync(~0u, score[query], key);
        for (int i = 0; i < kSteps; ++i) out[query][i] += weight * v[i];
      }
    }
  }

  for (int query = 0; query < kQueries; ++query) {
    const int64_t position = first_query + warp * kQueries + query;
    if (position >= params.positions) return;
    float* const target = params.out + (image * params.positions + position) * width + head * dim;
    for (int i = 0; i < kSteps; ++i)
      if (i * 32 + lane < dim) target[i * 32 + lane] = out[query][i] / sum[query];
  }
}

}  // namespace

template <>
Status launch_image_attention(const ImageAttentionParams<float>& params, cudaStream_t stream) {
  VKV_CHECK(params.head_dim >= 1 && params.head_dim <= kImageHeadDimMax);
  VKV_CHECK(params.image_count <= kImagesMax);
  if (params.image_count == 0) return {};
  constexpr int kBlockQueries = kWarps * kQueries;
  const dim3 grid(static_cast<unsigned>((params.positions + kBlockQueries - 1) / kBlockQueries),
                  static_cast<unsigned>(params.heads), static_cast<unsigned>(params.image_count));
  const float scale = 1.0f / std::sqrt(static_cast<float>(params.head_dim));
  const auto kernel = params.head_dim <= 64   ? image_attention_kernel<2>
                      : params.head_dim <= 96 ? image_attention_kernel<3>
                                              : image_attention_kernel<4>;
  kernel<<<grid, kWarps * 32, 0, stream>>>(params, scale);
  return launch_status("image_attention_kernel");
}

}  // namespace vkv
