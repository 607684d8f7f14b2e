// attend_scores.cuh: the scores of a unit, from its codes or its 16-bit keys.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attend_parts.cuh"

namespace vkv {

// B of the integer products: q' of the unit in two planes; of row t, factor and q.z.
template <class Traits>
struct PlanarQueries {
  uint32_t b[Traits::kChannels / 32][Traits::kTiles][2];
  float factor[Traits::kTiles];
  float beta[Traits::kTiles];
};

template <class Traits>
__device__ inline void make_planar(const float (&q)[Traits::kRows][Traits::kChannels],
                                   const std::byte* header, PlanarQueries<Traits>& planar) {
  constexpr int kC = Traits::kChannels;
  constexpr int kTogether = kC <= 128 ? Traits::kTiles : 1;  // tiles that share scales
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint2* scales = reinterpret_cast<const uint2*>(header);
  const uint2* zeros = scales + kC / 4;
  // Even columns take the hi byte, after half a lo byte's range was added; odd ones the lo byte.
  const float magic = 12582912.0f + (g % 2 == 0 ? 128.0f : 0.0f);
  const uint32_t byte_of_two = g % 2 == 0 ? 0x0051 : 0x0040;
#pragma unroll
  for (int first = 0; first < Traits::kTiles; first += kTogether) {
    float scaled[kTogether][kC / 16][4];
    float most[kTogether] = {}, beta[kTogether] = {};
#pragma unroll
    for (int i = 0; i < kC / 16; ++i) {
      const uint2 s4 = scales[4 * i + t], z4 = zeros[4 * i + t];
      const float2 s0 = __half22float2(pair_of_bits<__half2>(s4.x));
      const float2 s1 = __half22float2(pair_of_bits<__half2>(s4.y));
      const float2 z0 = __half22float2(pair_of_bits<__half2>(z4.x));
      const float2 z1 = __half22float2(pair_of_bits<__half2>(z4.y));
#pragma unroll
      for (int tile = 0; tile < kTogether; ++tile) {
        const float* row = q[(first + tile) * kRowsPerTile + g / 2];
        const float4 four = *reinterpret_cast<const float4*>(row + 16 * i + 4 * t);
        scaled[tile][i][0] = four.x * s0.x;
        scaled[tile][i][1] = four.y * s0.y;
        scaled[tile][i][2] = four.z * s1.x;
        scaled[tile][i][3] = four.w * s1.y;
        beta[tile] = fmaf(four.x, z0.x, beta[tile]);
        beta[tile] = fmaf(four.y, z0.y, beta[tile]);
        beta[tile] = fmaf(four.z, z1.x, beta[tile]);
        beta[tile] = fmaf(four.w, z1.y, beta[tile]);
#pragma unroll
        for (int j = 0; j < 4; ++j) most[tile] = fmaxf(most[tile], fabsf(scaled[tile][i][j]));
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTogether; ++tile) {
      for (int step = 1; step < 4; step *= 2) {
        most[tile] = fmaxf(most[tile], __shfl_xor_sync(kAllLanes, most[tile], step));
        beta[tile] += __shfl_xor_sync(kAllLanes, beta[tile], step);
      }
      most[tile] = fmaxf(most[tile], 1e-30f);
      const float inverse = kPlaneMax / most[tile];
#pragma unroll
      for (int i = 0; i < kC / 16; ++i) {
        uint32_t fixed[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          fixed[j] = __float_as_uint(fmaf(scaled[tile][i][j], inverse, magic));
        planar.b[i / 2][first + tile][i % 2] =
            __byte_perm(__byte_perm(fixed[0], fixed[1], byte_of_two),
                        __byte_perm(fixed[2], fixed[3], byte_of_two), 0x5410);
      }
      planar.factor[first + tile] = __shfl_sync(kAllLanes, most[tile], 8 * t) * (1.0f / kPlaneMax);
      planar.beta[first + tile] = __shfl_sync(kAllLanes, beta[tile], 8 * t);
    }
  }
}

// Scores of a unit go to shared memory: the loop over tokens need not be unrolled then.
template <class Traits>
using ScoreTable = float[Traits::kRows][Traits::kScoreStride];

template <class Traits, int kBits>
__device__ inline void score_codes(AttendStream<Traits>& stream, int tokens,
                                   const PlanarQueries<Traits>& q, ScoreTable<Traits>& scores) {
  using Tile = CodeTile<kBits>;
  constexpr int kRowTiles = Tile::kRowTiles, kColumns = Traits::kChannels / 32;
  constexpr int kRowBytes = kColumns * Tile::kBytes;
  // Rows of tiles that are taken together, so that products need not wait for each other; and how
  // many bytes are asked for at once: a piece holds a whole number of that.
  constexpr int kTogether = kRowTiles == 1 && kPieceBytes % (2 * kRowBytes) == 0 ? 2 : 1;
  constexpr int kAtOnce = kPieceBytes % kRowBytes == 0 ? kColumns : 1;
  constexpr int kSums = kTogether * kRowTiles;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll 1
  for (int token = 0; token < tokens; token += 16 * kSums) {
    int32_t sums[kSums][Traits::kTiles][4] = {};
#pragma unroll
    for (int first = 0; first < kColumns; first += kAtOnce) {
      const std::byte* tiles = stream.next_tiles(kTogether * kAtOnce * Tile::kBytes);
#pragma unroll
      for (int column = first; column < first + kAtOnce; ++column)
#pragma unroll
        for (int row = 0; row < kTogether; ++row) {
          const Tile codes(tiles + row * kRowBytes + (column - first) * Tile::kBytes);
#pragma unroll
          for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
            for (int tile = 0; tile < Traits::kTiles; ++tile)
              mma_m16n8k32(sums[row * kRowTiles + i][tile], codes.a[i], q.b[column][tile]);
        }
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i)
#pragma unroll
      for (int tile = 0; tile < Traits::kTiles; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          scores[tile * kRowsPerTile + t][token + 16 * i + 8 * half + g] =
              fmaf(static_cast<float>(256 * sums[i][tile][2 * half] + sums[i][tile][2 * half + 1]),
                   q.factor[tile] * (1.0f / Tile::row_scale(i % kRowTiles, half)), q.beta[tile]);
  }
}

// Operand B of depth step `step`: rows' queries as hi and lo halves, channels in the order in which
// score_halves() takes keys.
template <class Traits, bool kBf16>
__device__ inline uint2 half_queries(const AttendShared<Traits>& shared, int tile, int step) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int row = tile * kRowsPerTile + g / 2;
  const float* q = shared.q[row] + step / 2 * 32 + 8 * t + 4 * (step % 2);
  const float inverse = kBf16 ? 1.0f : 1.0f / shared.half_factor[row];
  const uint2 first = split_pair<kBf16>({q[0] * inverse, q[1] * inverse});
  const uint2 second = split_pair<kBf16>({q[2] * inverse, q[3] * inverse});
  return g % 2 == 0 ? make_uint2(first.x, second.x) : make_uint2(first.y, second.y);
}

template <class Traits, bool kBf16>
__device__ inline void score_halves(AttendStream<Traits>& stream, const Unit& unit,
                                    const AttendShared<Traits>& shared, bool relative, bool stored,
                                    ScoreTable<Traits>& scores) {
  using H = Half2Of<kBf16>;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float factor[Traits::kTiles];
  for (int tile = 0; tile < Traits::kTiles; ++tile)
    factor[tile] = (kBf16 ? 1.0f : shared.half_factor[tile * kRowsPerTile + t]) *
                   (relative ? 1.0f / H::kDistanceScale : 1.0f);
#pragma unroll 1
  for (int token = 0; token < unit.tokens; token += 16) {
    float sums[Traits::kTiles][4] = {};
#pragma unroll 1
    for (int column = 0; column < Traits::kChannels / 32; ++column) {
      const std::byte* tile_bytes = stream.next_tiles(kHalfTileBytes);
      // Eight channels from 8 t on of tokens g and g + 8: two operands A whose depth is permuted.
      const uint4 near = *reinterpret_cast<const uint4*>(tile_bytes + g * 64 + t * 16);
      const uint4 far = *reinterpret_cast<const uint4*>(tile_bytes + (g + 8) * 64 + t * 16);
      uint32_t a[2][4] = {{near.x, far.x, near.y, far.y}, {near.z, far.z, near.w, far.w}};
      uint32_t rest[2][4];
      if (relative) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
          for (int reg = 0; reg < 4; ++reg) {
            const int channel = column * 32 + 8 * t + 4 * j + reg / 2 * 2;
            const float2 mean = *reinterpret_cast<const float2*>(shared.mean + channel);
            const float2 k = H::value(pair_of_bits<typename H::Pair>(a[j][reg]));
            const uint2 split = split_pair<kBf16>(
                {(k.x - mean.x) * H::kDistanceScale, (k.y - mean.y) * H::kDistanceScale});
            a[j][reg] = split.x;
            rest[j][reg] = split.y;
          }
      }
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int tile = 0; tile < Traits::kTiles; ++tile) {
          const uint2 b2 = stored ? shared.q_halves[tile][column * 2 + j][lane]
                                  : half_queries<Traits, kBf16>(shared, tile, column * 2 + j);
          const uint32_t b[2] = {b2.x, b2.y};
          mma_halves<kBf16>(sums[tile], a[j], b);
          if (relative) mma_halves<kBf16>(sums[tile], rest[j], b);
        }
    }
#pragma unroll
    for (int tile = 0; tile < Traits::kTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        scores[tile * kRowsPerTile + t][token + 8 * half + g] =
            (sums[tile][2 * half] + sums[tile][2 * half + 1]) * factor[tile];
  }
}

// The scores of a lane's rows and tokens; -inf where a token does not count for a row.
template <class Traits>
__device__ inline void load_scores(const AttendSource& source, const Unit& unit, int row_begin,
                                   const ScoreTable<Traits>& table, Scores<Traits>& scores) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int group_heads = source.q_heads / source.kv_heads;
  int visible[Traits::kTiles];
#pragma unroll
  for (int tile = 0; tile < Traits::kTiles; ++tile) {
    visible[tile] = unit.token_count;
    if (unit.first_open < 0 || !source.causal) continue;
    const int query = (row_begin + tile * kRowsPerTile + t) / group_heads;
    visible[tile] =
        min(unit.token_count, source.open_count - source.q_len + query + 1 - unit.first_open);
  }
  __syncwarp();
  bool all = unit.live == nullptr;
#pragma unroll
  for (int tile = 0; tile < Traits::kTiles; ++tile) all = all && visible[tile] == Traits::kTokens;
  if (__all_sync(kAllLanes, all)) {
#pragma unroll
    for (int group = 0; group < Traits::kTokenTiles; ++group)
#pragma unroll
      for (int tile = 0; tile < Traits::kTiles; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          scores[group][tile][half] = table[tile * kRowsPerTile + t][group * 16 + half * 8 + g];
  } else {
#pragma unroll
    for (int group = 0; group < Traits::kTokenTiles; ++group)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int token = group * 16 + half * 8 + g;
        const bool live = unit.live == nullptr || token >= unit.tokens ||
                          (unit.live[token / 32] >> token % 32 & 1u) != 0;
#pragma unroll
        for (int tile = 0; tile < Traits::kTiles; ++tile)
          scores[group][tile][half] =
              live && token < visible[tile] ? table[tile * kRowsPerTile + t][token] : -INFINITY;
      }
  }
  __syncwarp();
}

}  // namespace vkv
