// attend_scores.cuh: the scores of a unit, from its codes or its 16-bit keys.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attend_parts.cuh"

namespace vkv {

// B of the integer products: q' of the unit; of the lane's rows, factor and q.z.
template <class Traits>
struct PlanarQueries {
  uint32_t b[Traits::kChannels / 32][Traits::kTiles][2];
  float factor[Traits::kTiles];
  float beta[Traits::kTiles];
};

template <class Traits>
__device__ inline void make_planar(const AttendShared<Traits>& shared, bool rotated,
                                   const std::byte* header, PlanarQueries<Traits>& planar) {
  constexpr int kC = Traits::kChannels;
  const int t = threadIdx.x % 4, row = Traits::column_row();
  const uint2* scales = reinterpret_cast<const uint2*>(header) + t;
  const uint2* zeros = scales + kC / 4;
  const float* q = &shared.q[rotated][row][4 * t];
  float scaled[kC / 16][4], most = 0.0f, beta = 0.0f;
#pragma unroll
  for (int i = 0; i < kC / 16; ++i) {
    const float4 q4 = *reinterpret_cast<const float4*>(q + 16 * i);
    const uint2 s4 = scales[4 * i], z4 = zeros[4 * i];
    const float2 s0 = __half22float2(pair_of_bits<__half2>(s4.x));
    const float2 s1 = __half22float2(pair_of_bits<__half2>(s4.y));
    const float2 z0 = __half22float2(pair_of_bits<__half2>(z4.x));
    const float2 z1 = __half22float2(pair_of_bits<__half2>(z4.y));
    scaled[i][0] = q4.x * s0.x;
    scaled[i][1] = q4.y * s0.y;
    scaled[i][2] = q4.z * s1.x;
    scaled[i][3] = q4.w * s1.y;
    beta = fmaf(q4.x, z0.x, beta);
    beta = fmaf(q4.y, z0.y, beta);
    beta = fmaf(q4.z, z1.x, beta);
    beta = fmaf(q4.w, z1.y, beta);
#pragma unroll
    for (int j = 0; j < 4; ++j) most = fmaxf(most, fabsf(scaled[i][j]));
  }
  for (int step = 1; step < 4; step *= 2) {
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, step));
    beta += __shfl_xor_sync(kAllLanes, beta, step);
  }
  most = fmaxf(most, 1e-30f);
  const float inverse = __fdividef(kQueryMax, most);
  // 1.5 x 2^23, whose last place is 1, leaves the integer in the low bits. With one tile, a lane
  // takes one byte of each: hi after half a lo byte's range was added.
  const bool hi = Traits::column_is_hi();
  const float magic = Traits::kTiles == 1 && hi ? 12583040.0f : 12582912.0f;
  const uint32_t byte_of_two = hi ? 0x0051 : 0x0040;
#pragma unroll
  for (int i = 0; i < kC / 16; ++i) {
    uint32_t fixed[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) fixed[j] = __float_as_uint(fmaf(scaled[i][j], inverse, magic));
    if constexpr (Traits::kTiles == 2) {
      const uint32_t first = __byte_perm(fixed[0], fixed[1], 0x5140);
      const uint32_t second = __byte_perm(fixed[2], fixed[3], 0x5140);
      planar.b[i / 2][0][i % 2] = __byte_perm(first, second, 0x7632);
      planar.b[i / 2][1][i % 2] = __byte_perm(first, second, 0x5410);
    } else {
      planar.b[i / 2][0][i % 2] = __byte_perm(__byte_perm(fixed[0], fixed[1], byte_of_two),
                                              __byte_perm(fixed[2], fixed[3], byte_of_two), 0x5410);
    }
  }
#pragma unroll
  for (int r = 0; r < Traits::kTiles; ++r) {
    const int lane = 4 * (Traits::kTiles == 2 ? 2 * t + r : 2 * t);
    planar.factor[r] = __shfl_sync(kAllLanes, most, lane) * (1.0f / kQueryMax);
    planar.beta[r] = __shfl_sync(kAllLanes, beta, lane);
  }
}

// Scores of a unit go through shared memory, each lane's to itself: the loop over tokens need not
// be unrolled then.
template <class Traits>
using ScoreTable = float[Traits::kTokenTiles][32][2 * Traits::kTiles];

template <class Traits, int kBits>
__device__ inline void score_codes(AttendStream<Traits>& stream, int tokens,
                                   const PlanarQueries<Traits>& q, ScoreTable<Traits>& scores) {
  using Tile = CodeTile<kBits>;
  constexpr int kColumns = Traits::kChannels / 32, kRowBytes = kColumns * Tile::kBytes;
  constexpr int kSums = group_rows<Traits::kChannels>(kBits, Traits::kChannels) / 16;
  constexpr int kTogether = kSums / Tile::kRowTiles;
#pragma unroll 1
  for (int token = 0; token < tokens; token += 16 * kSums) {
    int32_t sums[kSums][Traits::kTiles][4] = {};
    const std::byte* tiles = stream.next(kTogether * kRowBytes);
#pragma unroll
    for (int column = 0; column < kColumns; ++column)
#pragma unroll
      for (int row = 0; row < kTogether; ++row) {
        const Tile codes(tiles + row * kRowBytes + column * Tile::kBytes);
#pragma unroll
        for (int i = 0; i < Tile::kRowTiles; ++i) {
          const int sum = row * Tile::kRowTiles + i;
          mma_m16n8k32(sums[sum][0], codes.a[i], q.b[column][0]);
          if constexpr (Traits::kTiles == 2)
            mma_m16n8k32_unsigned(sums[sum][1], codes.a[i], q.b[column][1]);
        }
      }
#pragma unroll
    for (int i = 0; i < kSums; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int r = 0; r < Traits::kTiles; ++r)
          scores[token / 16 + i][threadIdx.x % 32][half * Traits::kTiles + r] =
              fmaf(static_cast<float>(static_cast<int32_t>(join_planes<Traits>(sums[i], half, r))),
                   q.factor[r] * (1.0f / Tile::row_scale(i % Tile::kRowTiles, half)), q.beta[r]);
  }
}

// Operand B of depth step `step`: rows' queries as hi and lo halves, channels in the order in which
// score_halves() takes keys.
template <class Traits, bool kBf16>
__device__ inline void half_queries(const AttendShared<Traits>& shared, int step,
                                    uint2 (&b)[Traits::kTiles]) {
  const int t = threadIdx.x % 4, row = Traits::column_row();
  const float* q = &shared.q[0][row][step / 2 * 32 + 8 * t + 2 * (step % 2)];
  const float inverse = kBf16 ? 1.0f : 1.0f / shared.half_factor[row];
  const uint2 first = split_pair<kBf16>({q[0] * inverse, q[1] * inverse});
  const uint2 second = split_pair<kBf16>({q[4] * inverse, q[5] * inverse});
  const uint2 hi = {first.x, second.x}, lo = {first.y, second.y};
  b[0] = Traits::kTiles == 2 || Traits::column_is_hi() ? hi : lo;
  if constexpr (Traits::kTiles == 2) b[1] = lo;
}

template <class Traits, bool kBf16, bool kRelative>
__device__ inline void score_halves(AttendStream<Traits>& stream, int tokens,
                                    const AttendShared<Traits>& shared,
                                    ScoreTable<Traits>& scores) {
  using H = Half2Of<kBf16>;
  constexpr int kC = Traits::kChannels;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float factor[Traits::kTiles];
  for (int r = 0; r < Traits::kTiles; ++r)
    factor[r] = (kBf16 ? 1.0f : shared.half_factor[Traits::first_row() + r]) *
                (kRelative ? 1.0f / H::kDistanceScale : 1.0f);
#pragma unroll 1
  for (int token = 0; token < tokens; token += 8) {
    const std::byte* rows = stream.next(16 * kC);
    HalfSums<Traits> sums;
#pragma unroll
    for (int column = 0; column < kC / 32; ++column) {
      // Eight channels from 8 t on of token g.
      const uint4 eight = *reinterpret_cast<const uint4*>(rows + g * 2 * kC + column * 64 + t * 16);
      uint32_t k[4] = {eight.x, eight.y, eight.z, eight.w}, rest[4];
      if constexpr (kRelative) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 mean =
              *reinterpret_cast<const float2*>(shared.mean + column * 32 + 8 * t + 2 * i);
          const float2 value = H::value(pair_of_bits<typename H::Pair>(k[i]));
          const uint2 split = split_pair<kBf16>(
              {(value.x - mean.x) * H::kDistanceScale, (value.y - mean.y) * H::kDistanceScale});
          k[i] = split.x;
          rest[i] = split.y;
        }
      }
#pragma unroll
      for (int pair = 0; pair < 2; ++pair)
#pragma unroll
        for (int tile = 0; tile < Traits::kTiles; ++tile) {
          const uint2 b2 = shared.q_halves[kBf16][column * 2 + pair][lane][tile];
          const uint32_t b[2] = {b2.x, b2.y};
          sums.template add<kBf16>(k, tile, pair, b);
          if constexpr (kRelative) sums.template add<kBf16>(rest, tile, pair, b);
        }
    }
#pragma unroll
    for (int r = 0; r < Traits::kTiles; ++r)
      scores[token / 16][lane][token / 8 % 2 * Traits::kTiles + r] = sums.of_row(r) * factor[r];
  }
}

// The scores of a lane; -inf where a token does not count for a row.
template <class Traits>
__device__ inline void load_scores(const AttendSource& source, const Unit& unit, int row_begin,
                                   const ScoreTable<Traits>& table, Scores<Traits>& scores) {
  const int lane = threadIdx.x % 32, g = lane / 4;
#pragma unroll
  for (int group = 0; group < Traits::kTokenTiles; ++group)
#pragma unroll
    for (int i = 0; i < 2 * Traits::kTiles; ++i) scores[group][i] = table[group][lane][i];
  __syncwarp();
  if (unit.live == nullptr && unit.first_open < 0 && unit.token_count == Traits::kTokens) return;
  int visible[Traits::kTiles];
#pragma unroll
  for (int r = 0; r < Traits::kTiles; ++r) {
    visible[r] = unit.token_count;
    if (unit.first_open < 0 || !source.causal) continue;
    const int query = (row_begin + Traits::first_row() + r) / (source.q_heads / source.kv_heads);
    visible[r] = min(visible[r], source.open_count - source.q_len + query + 1 - unit.first_open);
  }
#pragma unroll
  for (int group = 0; group < Traits::kTokenTiles; ++group)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = group * 16 + half * 8 + g;
      const bool live = unit.live == nullptr || token >= unit.token_count ||
                        (unit.live[token / 32] >> token % 32 & 1u) != 0;
#pragma unroll
      for (int r = 0; r < Traits::kTiles; ++r)
        if (!live || token >= visible[r]) scores[group][half * Traits::kTiles + r] = -INFINITY;
    }
}

}  // namespace vkv
