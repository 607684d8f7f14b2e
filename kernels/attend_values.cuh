// attend_values.cuh: the softmax of a unit and its sum over values.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attend_parts.cuh"

namespace vkv {

// Of a unit and row t, per product.
template <class Traits>
struct UnitWeights {
  float merge[Traits::kTiles];   // 2^(max of the unit - new max): what its sums count
  float factor[Traits::kTiles];  // of the sums over fixed-point weights
  float zeros[Traits::kTiles];   // what z_v counts, or with V per token what all channels get
};

enum class WeightKind { kCodes, kCodesPerToken, kHalves, kBfloats };

// Updates max and sum of the rows, scales the output so far, and leaves the unit's weights in
// shared memory, as two bytes or as two halves.
template <class Traits, WeightKind kKind>
__device__ inline void take_weights(const Unit& unit, const std::byte* header,
                                    WarpShared<Traits>& shared, Scores<Traits>& scores,
                                    RowState<Traits>& state, UnitWeights<Traits>& weights) {
  constexpr float kMagic = 8388608.0f;  // the last place of 2^23 is 1
  constexpr bool kPerToken = kKind == WeightKind::kCodesPerToken;
  constexpr bool kFixed = kKind == WeightKind::kCodes || kPerToken;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int tile = 0; tile < Traits::kTiles; ++tile) {
    float most = -INFINITY;
#pragma unroll
    for (int group = 0; group < Traits::kTokenTiles; ++group)
      most = fmaxf(most, fmaxf(scores[group][tile][0], scores[group][tile][1]));
    most = max_over_g(most);
    const float max = fmaxf(state.max[tile], most);
    const float before = max == -INFINITY ? 1.0f : exp2_fast(state.max[tile] - max);
    const float now = most == -INFINITY ? 0.0f : exp2_fast(most - max);
    const float base = most == -INFINITY ? 0.0f : most;
    state.max[tile] = max;
    if (__any_sync(kAllLanes, before != 1.0f)) {
#pragma unroll
      for (int channels = 0; channels < Traits::kChannelTiles; ++channels) {
        state.out[channels][tile][0] *= before;
        state.out[channels][tile][1] *= before;
      }
    }
#pragma unroll
    for (int group = 0; group < Traits::kTokenTiles; ++group)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        scores[group][tile][half] = exp2_fast(scores[group][tile][half] - base);

    float sum = 0.0f, zeros = 0.0f, largest = 1.0f;
    if constexpr (kPerToken) {
      const __half* token_scales = reinterpret_cast<const __half*>(header) + 2 * Traits::kChannels;
      largest = 0.0f;
#pragma unroll
      for (int group = 0; group < Traits::kTokenTiles; ++group)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int token = group * 16 + half * 8 + g;
          if (token >= unit.tokens) continue;
          float& weight = scores[group][tile][half];
          sum += weight;
          zeros += weight * __half2float(token_scales[unit.tokens + token]);
          weight *= __half2float(token_scales[token]);
          largest = fmaxf(largest, weight);
        }
      largest = fmaxf(max_over_g(largest), 1e-30f);
    }

    const float inverse = kWeightMax / largest;
    uint32_t fixed_sum = 0;
    const int column = 8 * tile + 2 * t;
#pragma unroll
    for (int group = 0; group < Traits::kTokenTiles; ++group)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int token = group * 16 + half * 8 + g;
        const float weight = scores[group][tile][half];
        if constexpr (kFixed) {
          const uint32_t fixed = __float_as_uint(fmaf(weight, inverse, kMagic));
          fixed_sum += fixed & 0xffffu;
          shared.weights[column][token] = static_cast<uint8_t>(fixed >> 8);
          shared.weights[column + 1][token] = static_cast<uint8_t>(fixed);
        } else {
          sum += weight;
          const uint2 split = split_pair<kKind == WeightKind::kBfloats>({weight, 0.0f});
          shared.half_weights[column][token] = static_cast<uint16_t>(split.x);
          shared.half_weights[column + 1][token] = static_cast<uint16_t>(split.y);
        }
      }
    if constexpr (kKind == WeightKind::kCodes)
      sum = static_cast<float>(fixed_sum) * (1.0f / kWeightMax);
    sum = sum_over_g(sum);
    state.sum[tile] = state.sum[tile] * before + now * sum;
    weights.merge[tile] = now;
    weights.factor[tile] = now * largest * (1.0f / kWeightMax);
    weights.zeros[tile] = now * (kPerToken ? sum_over_g(zeros) : sum);
  }
  __syncwarp();
}

template <class Traits, int kBits>
__device__ inline void sum_codes(AttendStream<Traits>& stream, const Unit& unit,
                                 const std::byte* header, const WarpShared<Traits>& shared,
                                 const UnitWeights<Traits>& weights, RowState<Traits>& state) {
  using Tile = CodeTile<kBits>;
  constexpr int kRowTiles = Tile::kRowTiles;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  constexpr int kColumns = Traits::kTokens / 32, kRowBytes = kColumns * Tile::kBytes;
  // Rows of tiles of a full block that are taken together, and asked for at once.
  constexpr int kTogether = kRowTiles == 1 && kPieceBytes % (2 * kRowBytes) == 0 ? 2 : 1;
  constexpr int kSums = kTogether * kRowTiles;
  const bool full = kPieceBytes % kRowBytes == 0 && unit.tokens == Traits::kTokens;
  const __half* scales = reinterpret_cast<const __half*>(header) + 2 * Traits::kChannels;
  const __half* zeros = scales + Traits::kChannels;
#pragma unroll
  for (int group = 0; group < Traits::kChannelTiles; group += kSums) {
    int32_t sums[kSums][Traits::kTiles][4] = {};
    const auto add = [&](const std::byte* tile_bytes, int row, int token) {
      const Tile codes(tile_bytes);
#pragma unroll
      for (int tile = 0; tile < Traits::kTiles; ++tile) {
        const uint8_t* weight = shared.weights[8 * tile + g] + token + 4 * t;
        const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(weight),
                               *reinterpret_cast<const uint32_t*>(weight + 16)};
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i)
          mma_m16n8k32_unsigned(sums[row * kRowTiles + i][tile], codes.a[i], b);
      }
    };
    if (full) {
      const std::byte* tiles = stream.next_tiles(kTogether * kRowBytes);
#pragma unroll
      for (int column = 0; column < kColumns; ++column)
#pragma unroll
        for (int row = 0; row < kTogether; ++row)
          add(tiles + row * kRowBytes + column * Tile::kBytes, row, column * 32);
    } else {
#pragma unroll
      for (int row = 0; row < kTogether; ++row)
#pragma unroll 1
        for (int token = 0; token < unit.tokens; token += 32)
          add(stream.next_tiles(Tile::kBytes), row, token);
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int channel = (group + i) * 16 + half * 8 + g;
        float scale = 1.0f, zero = 1.0f;  // V per token: both are in the weights
        if (!unit.v_per_token) {
          scale = __half2float(scales[channel]);
          zero = __half2float(zeros[channel]);
        }
        scale *= 1.0f / Tile::row_scale(i % kRowTiles, half);
#pragma unroll
        for (int tile = 0; tile < Traits::kTiles; ++tile) {
          const uint32_t sum = 256u * static_cast<uint32_t>(sums[i][tile][2 * half]) +
                               static_cast<uint32_t>(sums[i][tile][2 * half + 1]);
          float& out = state.out[group + i][tile][half];
          out = fmaf(static_cast<float>(sum) * weights.factor[tile], scale, out);
          out = fmaf(zero, weights.zeros[tile], out);
        }
      }
  }
}

template <class Traits, bool kBf16>
__device__ inline void sum_halves(AttendStream<Traits>& stream, const Unit& unit,
                                  const WarpShared<Traits>& shared,
                                  const UnitWeights<Traits>& weights, RowState<Traits>& state) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const bool open = unit.first_open >= 0;
#pragma unroll
  for (int channels = 0; channels < Traits::kChannelTiles; ++channels) {
    float sums[Traits::kTiles][4] = {};
#pragma unroll 1
    for (int column = 0; column * 32 < unit.tokens; ++column) {
      const std::byte* tile_bytes = stream.next_tiles(kHalfTileBytes);
      uint32_t a[2][4];
      if (open) {  // rows are tokens: transposed on the way, depth in order
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int token = 16 * j + lane / 16 * 8 + lane % 8;
          load_transposed(tile_bytes + token * 32 + lane / 8 % 2 * 16, a[j]);
        }
      } else {
        const uint4 near = *reinterpret_cast<const uint4*>(tile_bytes + g * 64 + t * 16);
        const uint4 far = *reinterpret_cast<const uint4*>(tile_bytes + (g + 8) * 64 + t * 16);
        a[0][0] = near.x, a[0][1] = far.x, a[0][2] = near.y, a[0][3] = far.y;
        a[1][0] = near.z, a[1][1] = far.z, a[1][2] = near.w, a[1][3] = far.w;
      }
#pragma unroll
      for (int tile = 0; tile < Traits::kTiles; ++tile) {
        const uint16_t* row = shared.half_weights[8 * tile + g] + column * 32;
        uint32_t b[2][2];
        if (open) {
#pragma unroll
          for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half)
              b[j][half] = *reinterpret_cast<const uint32_t*>(row + 16 * j + 8 * half + 2 * t);
        } else {
          const uint4 eight = *reinterpret_cast<const uint4*>(row + 8 * t);
          b[0][0] = eight.x, b[0][1] = eight.y, b[1][0] = eight.z, b[1][1] = eight.w;
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) mma_halves<kBf16>(sums[tile], a[j], b[j]);
      }
    }
#pragma unroll
    for (int tile = 0; tile < Traits::kTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& out = state.out[channels][tile][half];
        out = fmaf(sums[tile][2 * half] + sums[tile][2 * half + 1], weights.merge[tile], out);
      }
  }
}

}  // namespace vkv
