// attend_parts.cuh: attention of a few query rows over one KV head's blocks: what its parts share.
// SPDX-License-Identifier: Apache-2.0
//
// Each warp takes units (blocks) in turn and keeps its own running maximum, sum and output; the
// warps of a thread block merge theirs at the end. For a unit, with codes c, q' = q s_k and
// p = 2^(S - max S):
//
//   QK   S = q'.c + q.z_k: tokens are the 16 rows of a product, channels its depth. q' is fixed
//        point of 16 bits, in two columns: a hi and a lo byte.
//   PV   O += s_v (sum p c) + z_v (sum p): channels are the rows, tokens the depth. p is fixed
//        point of 16 bits relative to the unit's own maximum, in two columns again.
//
// 16-bit K and V go through products of fp16 or bf16, 8 tokens or channels at a time, q and p as
// sums of two. K is taken relative to the mean in fp32 and split in two likewise: a large offset
// costs nothing.
//
// Lane 4 g + t of a warp holds, of an operand A, rows g and g + 8; of B, column g; of a result,
// rows g and g + 8 of columns 2t and 2t + 1. Eight query rows are two tiles of columns, all hi and
// all lo; four are one, hi and lo in turn. So a lane has both columns of its rows.
//
// Reference: cpu/attend_reference.cpp. Scores are in units of log 2.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/mma.cuh"
#include "kernels/record_stream.cuh"

namespace vkv {

inline constexpr float kQueryMax = 32512.0f;   // of q in fixed point: its hi byte is s8
inline constexpr float kWeightMax = 65535.0f;  // of p in fixed point
inline constexpr unsigned kAllLanes = ~0u;
inline constexpr int kFewTokens = kOpenUnitTokens;  // of a unit: the softmax leaves others out

template <int kChannels_, int kTiles_>
struct AttendTraits {
  static constexpr int kChannels = kChannels_;
  // Columns of products, in tiles of 8. Two tiles: hi and lo of 8 rows. One: of 4 rows, in turn.
  static constexpr int kTiles = kTiles_;
  static constexpr int kRows = kTiles * kRowsPerTile;
  static constexpr int kTokens = unit_tokens(kChannels);
  static constexpr int kTokenTiles = kTokens / 16;
  static constexpr int kChannelTiles = kChannels / 16;
  // Warps of a thread block, and thread blocks on a multiprocessor at once: what registers and
  // shared memory allow without much spilling. Eight rows: 12 warps of 168 registers; four: 16 of
  // 128.
  static constexpr int kWarps = 4;
  static constexpr int kThreadBlocks = kChannels > 128 || kTokens > 128 ? 2 : 5 - kTiles;

  // The query row of a lane's column in operands B.
  static __device__ int column_row() {
    const int g = threadIdx.x % 32 / 4;
    return kTiles == 2 ? g : g / 2;
  }
  // With one tile: whether this lane's column is a hi one.
  static __device__ bool column_is_hi() { return threadIdx.x / 4 % 2 == 0; }
  // Of the results, a lane has columns of kTiles rows: this one's first.
  static __device__ int first_row() { return kTiles * (threadIdx.x % 4); }
};

template <class Traits>
struct WarpShared {
  StreamShared<Traits::kChannels> stream;
  union {  // of a unit, one after the other
    alignas(16) float scores[Traits::kTokenTiles][32][2 * Traits::kTiles];
    alignas(16) uint32_t weights[Traits::kTiles][Traits::kTokens][4];  // columns of 16 bits
  };
};

template <class Traits>
struct AttendShared {
  alignas(16) float q[2][Traits::kRows][Traits::kChannels];  // times scale and log2 e; rotated
  alignas(16) float mean[Traits::kChannels];
  // Operands B of 16-bit products: fp16, bf16.
  alignas(16) uint2 q_halves[2][Traits::kChannels / 16][32][Traits::kTiles];
  float half_factor[Traits::kRows];  // fp16: q = factor * (hi + lo)
  float q_mean[Traits::kRows];       // q.mean
  AttendSource source;
  OpenRows open_rows;
  Unit units[kTaskUnitsMax];
  WarpShared<Traits> warps[Traits::kWarps];
  float2 max_and_sum[Traits::kWarps][Traits::kRows];
};

extern __shared__ __align__(128) unsigned char attend_shared_bytes[];

template <class Traits>
__device__ inline AttendShared<Traits>& attend_shared() {
  return *reinterpret_cast<AttendShared<Traits>*>(attend_shared_bytes);
}

// Where a warp's stream finds its memory.
template <class Traits>
struct AttendPlaces {
  static constexpr int kChannels = Traits::kChannels;
  static constexpr int kWarps = Traits::kWarps;
  static __device__ StreamShared<kChannels>& stream() {
    return attend_shared<Traits>().warps[threadIdx.x / 32].stream;
  }
  static __device__ const Unit& unit(int index) { return attend_shared<Traits>().units[index]; }
  static __device__ const OpenRows& open_rows() { return attend_shared<Traits>().open_rows; }
};

template <class Traits>
using AttendStream = RecordStream<AttendPlaces<Traits>>;

// Per lane, of its rows first_row() + r: as results lie, [half * kTiles + r] is channel g + 8 half
// or token g + 8 half of row r.
template <class Traits>
struct RowState {
  float max[Traits::kTiles];
  float sum[Traits::kTiles];
  float out[Traits::kChannelTiles][2 * Traits::kTiles];
};
template <class Traits>
using Scores = float[Traits::kTokenTiles][2 * Traits::kTiles];

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of the lanes with the same t.
__device__ inline float max_over_g(float x) {
  for (int step = 4; step < 32; step *= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}
template <class T>
__device__ inline T sum_over_g(T x) {
  for (int step = 4; step < 32; step *= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// The hi and lo columns of an integer product, of the r-th row: their sum, low 32 bits.
template <class Traits>
__device__ inline uint32_t join_planes(const int32_t (&sums)[Traits::kTiles][4], int half, int r) {
  const int32_t hi = Traits::kTiles == 2 ? sums[0][2 * half + r] : sums[0][2 * half];
  const int32_t lo = sums[Traits::kTiles - 1][Traits::kTiles == 2 ? 2 * half + r : 2 * half + 1];
  return (static_cast<uint32_t>(hi) << 8) + static_cast<uint32_t>(lo);
}
// The same of a product of 16-bit floating point.
template <class Traits>
__device__ inline float join_halves(const float (&sums)[Traits::kTiles][4], int half, int r) {
  return Traits::kTiles == 2 ? sums[0][2 * half + r] + sums[Traits::kTiles - 1][2 * half + r]
                             : sums[0][2 * half] + sums[0][2 * half + 1];
}

// Eight rows of 16 bits in place of the 16 of an operand A: what a lane reads of a row at once are
// pairs of columns 0, 1, 2 and 3. As A, 0 and 2 are row g, 1 and 3 row g + 8; so one product with B
// of pairs 0 and 2 counts in its upper half, another with B of pairs 1 and 3 in its lower half.
template <class Traits>
struct HalfSums {
  float pairs[2][Traits::kTiles][4] = {};

  template <bool kBf16>
  __device__ void add(const uint32_t (&a)[4], int tile, int pair, const uint32_t (&b)[2]) {
    mma_halves<kBf16>(pairs[pair][tile], a, b);
  }
  __device__ float of_row(int r) const {
    return join_halves<Traits>(pairs[0], 0, r) + join_halves<Traits>(pairs[1], 1, r);
  }
};

// A tile of codes as operands A. Rows are multiplied by powers of two where that saves shifts.
template <int kBits>
struct CodeTile {
  static constexpr int kRowTiles = kBits == 1 ? 2 : 1;
  static constexpr int kWords = 4 * kRowTiles * kBits / 8;
  static constexpr int kBytes = kWords * 128;
  uint32_t a[kRowTiles][4];

  __device__ explicit CodeTile(const std::byte* tile) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint32_t* words = reinterpret_cast<const uint32_t*>(tile) + t * 8 + g;
    // Registers 0 and 1 are the lower 16 columns of rows g and g + 8, registers 2 and 3 the upper.
    if constexpr (kBits == 8) {
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) a[0][reg] = words[reg * 32];
    } else if constexpr (kBits == 4) {
#pragma unroll
      for (int reg = 0; reg < 4; ++reg)
        a[0][reg] = words[reg / 2 * 32] & (reg % 2 == 0 ? 0x0f0f0f0fu : 0xf0f0f0f0u);
    } else {
      const uint32_t lower = words[0], upper = lower >> (2 * kBits);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
        for (int reg = 0; reg < 4; ++reg)
          a[i][reg] = (reg < 2 ? lower : upper) & (code_mask(i, reg % 2));
    }
  }

  // Of rows g (half 0) and g + 8 (half 1) of row tile i: what products are multiplied by.
  static __host__ __device__ constexpr float row_scale(int i, int half) {
    return static_cast<float>(1 << (kBits == 8 ? 0 : 4 * i + half * kBits));
  }

 private:
  static __host__ __device__ constexpr uint32_t code_mask(int i, int half) {
    return 0x01010101u * ((1u << kBits) - 1) << (4 * i + half * kBits);
  }
};

// What differs between fp16 and bf16.
template <bool kBf16>
struct Half2Of {
  using Pair = __half2;
  static __device__ Pair round(float2 x) { return __float22half2_rn(x); }
  static __device__ float2 value(Pair x) { return __half22float2(x); }
  static constexpr float kDistanceScale = 0.5f;  // keeps k - mean within fp16
};
template <>
struct Half2Of<true> {
  using Pair = __nv_bfloat162;
  static __device__ Pair round(float2 x) { return __float22bfloat162_rn(x); }
  static __device__ float2 value(Pair x) { return __bfloat1622float2(x); }
  static constexpr float kDistanceScale = 1.0f;
};

template <class Pair>
__device__ inline uint32_t bits_of_pair(Pair pair) {
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <class Pair>
__device__ inline Pair pair_of_bits(uint32_t bits) {
  return *reinterpret_cast<const Pair*>(&bits);
}

// x = hi + lo, as far as two of them reach.
template <bool kBf16>
__device__ inline uint2 split_pair(float2 x) {
  using H = Half2Of<kBf16>;
  const auto hi = H::round(x);
  const float2 back = H::value(hi);
  return {bits_of_pair(hi), bits_of_pair(H::round({x.x - back.x, x.y - back.y}))};
}

}  // namespace vkv
