// image_attention_bf16.cu: attention inside pictures in bf16, by tensor cores.
// SPDX-License-Identifier: Apache-2.0
//
// A block has 64 queries of one head, 16 a warp, which stay in registers, and walks over the keys
// in tiles of 64; weights of a tile go from one product to the next without leaving their lane.
// Source: Dao 2023, "FlashAttention-2"; layout of operands: PTX ISA, "Matrix fragments for
// mma.m16n8k16": lane 4 * g + t has rows g and g + 8, and pairs of columns from 2 * t on.
#include <cmath>

#include "kernels/cuda_handles.h"
#include "kernels/mma.cuh"
#include "tools/mllm/cuda/image_attention.h"

namespace vkv {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kWarps = 4;
constexpr int kTile = 16 * kWarps;  // queries of a block, and keys at a time
constexpr int kPad = 8;             // values behind a row of a tile, so that rows miss no bank

__device__ uint32_t pair_at(const Bf16* values) {
  return *reinterpret_cast<const uint32_t*>(values);
}

__device__ uint32_t pair_of(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Rows of `dim` values, `stride` apart; what is not there becomes zero.
template <int kDim>
__device__ void load_tile(Bf16 (*tile)[kDim + kPad], const Bf16* source, int64_t stride, int rows,
                          int dim) {
  constexpr int kVector = 8;  // values of 16 bytes
  if (dim % kVector == 0) {
    for (int i = threadIdx.x; i < kTile * kDim / kVector; i += blockDim.x) {
      const int row = i / (kDim / kVector), channel = i % (kDim / kVector) * kVector;
      uint4 values = {0, 0, 0, 0};
      if (row < rows && channel < dim)
        values = *reinterpret_cast<const uint4*>(source + row * stride + channel);
      *reinterpret_cast<uint4*>(&tile[row][channel]) = values;
    }
    return;
  }
  for (int i = threadIdx.x; i < kTile * kDim; i += blockDim.x) {
    const int row = i / kDim, channel = i % kDim;
    tile[row][channel] =
        row < rows && channel < dim ? source[row * stride + channel] : __float2bfloat16_rn(0.0f);
  }
}

// The greatest or the sum of the four lanes that share a row.
__device__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}
__device__ float row_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

// kDim: head_dim, or more. scale: of scores, to base 2.
template <int kDim>
__global__ void __launch_bounds__(kWarps * 32)
    image_attention_bf16_kernel(const ImageAttentionParams<Bf16> params, float scale) {
  __shared__ __align__(16) Bf16 k_tile[kTile][kDim + kPad], v_tile[kTile][kDim + kPad];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int dim = params.head_dim, head = blockIdx.y, first_query = blockIdx.x * kTile;
  const int64_t image = blockIdx.z, width = int64_t{params.heads} * dim, stride = 3 * width;
  const Bf16* const q = params.qkv + image * params.positions * stride + head * dim;

  // 1. Queries, through the tile of keys into registers.
  load_tile<kDim>(k_tile, q + first_query * stride, stride, params.positions - first_query, dim);
  __syncthreads();
  uint32_t query[kDim / 16][4];
  for (int step = 0; step < kDim / 16; ++step)
    for (int i = 0; i < 4; ++i)
      query[step][i] = pair_at(&k_tile[warp * 16 + g + i % 2 * 8][step * 16 + i / 2 * 8 + 2 * t]);

  float out[kDim / 8][4] = {};
  float greatest[2] = {-INFINITY, -INFINITY}, sum[2] = {};  // of rows g and g + 8
  for (int first_key = 0; first_key < params.positions; first_key += kTile) {
    const int keys = min(kTile, params.positions - first_key);
    __syncthreads();
    const Bf16* const k = q + first_key * stride + width;
    load_tile<kDim>(k_tile, k, stride, keys, dim);
    load_tile<kDim>(v_tile, k + width, stride, keys, dim);
    __syncthreads();

    // 2. Scores: [16 queries, 64 keys] a warp.
    float score[kTile / 8][4] = {};
    for (int column = 0; column < kTile / 8; ++column)
      for (int step = 0; step < kDim / 16; ++step) {
        const Bf16* const key = &k_tile[column * 8 + g][step * 16 + 2 * t];
        mma_halves<true>(score[column], query[step], {pair_at(key), pair_at(key + 8)});
      }

    // 3. Weights, relative to the greatest score so far.
    float top[2] = {greatest[0], greatest[1]};
    for (int column = 0; column < kTile / 8; ++column)
      for (int i = 0; i < 4; ++i) {
        const bool inside = column * 8 + 2 * t + i % 2 < keys;
        score[column][i] = inside ? score[column][i] * scale : -INFINITY;
        top[i / 2] = fmaxf(top[i / 2], score[column][i]);
      }
    for (int row = 0; row < 2; ++row) {
      top[row] = row_max(top[row]);
      const float shrink = exp2f(greatest[row] - top[row]);  // 0 at the first tile
      greatest[row] = top[row];
      sum[row] *= shrink;
      for (int column = 0; column < kDim / 8; ++column)
        for (int i = 0; i < 2; ++i) out[column][2 * row + i] *= shrink;
    }
    for (int column = 0; column < kTile / 8; ++column)
      for (int i = 0; i < 4; ++i)
        sum[i / 2] += score[column][i] = exp2f(score[column][i] - greatest[i / 2]);

    // 4. Values, 16 keys and 16 channels at a time.
    for (int step = 0; step < kTile / 16; ++step) {
      const float(&low)[4] = score[2 * step];
      const float(&high)[4] = score[2 * step + 1];
      const uint32_t weight[4] = {pair_of(low[0], low[1]), pair_of(low[2], low[3]),
                                  pair_of(high[0], high[1]), pair_of(high[2], high[3])};
      for (int column = 0; column < kDim / 16; ++column) {
        uint32_t value[4];
        load_transposed(&v_tile[step * 16 + lane % 16][column * 16 + lane / 16 * 8], value);
        mma_halves<true>(out[2 * column], weight, {value[0], value[1]});
        mma_halves<true>(out[2 * column + 1], weight, {value[2], value[3]});
      }
    }
  }

  for (int row = 0; row < 2; ++row) {
    const float total = row_sum(sum[row]);
    const int64_t position = first_query + warp * 16 + g + 8 * row;
    if (position >= params.positions) continue;
    Bf16* const target = params.out + (image * params.positions + position) * width + head * dim;
    for (int column = 0; column < kDim / 8; ++column)
      for (int i = 0; i < 2; ++i) {
        const int channel = column * 8 + 2 * t + i;
        if (channel < dim) target[channel] = __float2bfloat16_rn(out[column][2 * row + i] / total);
      }
  }
}

}  // namespace

template <>
Status launch_image_attention(const ImageAttentionParams<Bf16>& params, cudaStream_t stream) {
  VKV_CHECK(params.head_dim >= 1 && params.head_dim <= kImageHeadDimMax);
  VKV_CHECK(params.image_count <= kImagesMax);
  if (params.image_count == 0) return {};
  const dim3 grid(static_cast<unsigned>((params.positions + kTile - 1) / kTile),
                  static_cast<unsigned>(params.heads), static_cast<unsigned>(params.image_count));
  constexpr float kLog2OfE = 1.44269504f;
  const float scale = kLog2OfE / std::sqrt(static_cast<float>(params.head_dim));
  const auto kernel = params.head_dim <= 64   ? image_attention_bf16_kernel<64>
                      : params.head_dim <= 80 ? image_attention_bf16_kernel<80>
                      : params.head_dim <= 96 ? image_attention_bf16_kernel<96>
                                              : image_attention_bf16_kernel<128>;
  kernel<<<grid, kWarps * 32, 0, stream>>>(params, scale);
  return launch_status("image_attention_bf16_kernel");
}

}  // namespace vkv
