// attend_values.cuh: the softmax of a unit and its sum over values.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attend_parts.cuh"

namespace vkv {

// Of a unit and the lane's rows.
template <class Traits>
struct UnitWeights {
  float merge[Traits::kTiles];   // 2^(max of the unit - new max): what its sums count
  float factor[Traits::kTiles];  // of the sums over fixed-point weights
  float zeros[Traits::kTiles];   // what z_v counts, or with V per token what all channels get
};

enum class WeightKind { kCodes, kCodesPerToken, kHalves, kBfloats };

// Updates max and sum of the rows, scales the output so far, and leaves the unit's weights in
// shared memory, a column of 16 bits a row: fixed point, or halves of which hi and lo are planes
// (with one tile: columns) of their own.
template <class Traits, WeightKind kKind>
__device__ inline void take_weights(const Unit& unit, const std::byte* header,
                                    WarpShared<Traits>& shared, Scores<Traits>& scores,
                                    RowState<Traits>& state, UnitWeights<Traits>& weights) {
  constexpr uint32_t kMagic = 0x4b000000u;  // 2^23, whose last place is 1
  constexpr int kTiles = Traits::kTiles;
  constexpr bool kPerToken = kKind == WeightKind::kCodesPerToken;
  constexpr bool kFixed = kKind == WeightKind::kCodes || kPerToken;
  const int lane = threadIdx.x % 32, g = lane / 4;
  const bool few = unit.tokens <= kFewTokens;
  // All that a lane's rows have of a token g + 8 i.
  const auto each = [&](const auto& action) {
#pragma unroll
    for (int i = 0; i < 2 * Traits::kTokenTiles; ++i) {
      if (i == kFewTokens / 8 && few) break;
      action(i, &scores[i / 2][i % 2 * kTiles]);
    }
  };
  float inverse[kTiles];
#pragma unroll
  for (int r = 0; r < kTiles; ++r) {
    float most = -INFINITY;
    each([&](int, const float* rows) { most = fmaxf(most, rows[r]); });
    most = max_over_g(most);
    const float max = fmaxf(state.max[r], most);
    const float before = max == -INFINITY ? 1.0f : exp2_fast(state.max[r] - max);
    const float now = most == -INFINITY ? 0.0f : exp2_fast(most - max);
    const float base = most == -INFINITY ? 0.0f : most;
    state.max[r] = max;
    if (__any_sync(kAllLanes, before != 1.0f)) {
#pragma unroll
      for (int channels = 0; channels < Traits::kChannelTiles; ++channels) {
        state.out[channels][r] *= before;
        state.out[channels][kTiles + r] *= before;
      }
    }
    each([&](int, float* rows) { rows[r] = exp2_fast(rows[r] - base); });

    float sum = 0.0f, zeros = 0.0f, largest = 1.0f;
    if constexpr (kPerToken) {
      const __half* token_scales = reinterpret_cast<const __half*>(header) + 2 * Traits::kChannels;
      const int tokens = unit.tokens;
      largest = 0.0f;
      each([&](int i, float* rows) {
        const int token = 8 * i + g;
        if (token >= tokens) return;
        sum += rows[r];
        zeros += rows[r] * __half2float(token_scales[tokens + token]);
        rows[r] *= __half2float(token_scales[token]);
        largest = fmaxf(largest, rows[r]);
      });
      largest = fmaxf(max_over_g(largest), 1e-30f);
    }
    inverse[r] = kWeightMax / largest;
    if constexpr (kFixed) {
      uint32_t fixed_sum = 0;
      each([&](int, float* rows) {
        rows[r] = fmaf(rows[r], inverse[r], __uint_as_float(kMagic));
        fixed_sum += __float_as_uint(rows[r]);
      });
      const uint32_t count = few ? kFewTokens / 8 : 2 * Traits::kTokenTiles;
      if constexpr (!kPerToken)
        sum = static_cast<float>(fixed_sum - count * kMagic) * (1.0f / kWeightMax);
    } else {
      each([&](int, const float* rows) { sum += rows[r]; });
    }
    sum = sum_over_g(sum);
    state.sum[r] = state.sum[r] * before + now * sum;
    weights.merge[r] = now;
    weights.factor[r] = now * largest * (1.0f / kWeightMax);
    weights.zeros[r] = now * (kPerToken ? sum_over_g(zeros) : sum);
  }

  // Lane 4 g + t writes columns 2t and 2t + 1 of tokens g + 8 i.
  each([&](int i, const float* rows) {
    uint32_t* hi = &shared.weights[0][0][lane] + 32 * i;
    const float first = rows[0], second = rows[kTiles - 1];
    if constexpr (kFixed) {
      *hi = __byte_perm(__float_as_uint(first), __float_as_uint(second), 0x5410);
    } else {
      constexpr bool kBf16 = kKind == WeightKind::kBfloats;
      const uint2 split = split_pair<kBf16>({first, second});
      *hi = kTiles == 2 ? split.x : __byte_perm(split.x, split.y, 0x5410);
      if constexpr (kTiles == 2) hi[4 * Traits::kTokens] = split.y;
    }
  });
  __syncwarp();
}

// B of integer products over the 32 tokens from `token` on: hi and lo bytes of the weights.
template <class Traits>
__device__ inline void load_weights(const WarpShared<Traits>& shared, int token,
                                    uint32_t (&b)[Traits::kTiles][2]) {
  // Transposed, each two registers hold four tokens from 4 t on, of the lower and the upper 16.
  const int lane = threadIdx.x % 32;
  uint32_t pairs[4];
  load_transposed(
      shared.weights[0][token + lane / 16 * 16 + lane / 8 % 2 * 2 + lane % 8 / 2 * 4 + lane % 2],
      pairs);
  const bool hi_first = Traits::kTiles == 2 || Traits::column_is_hi();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    b[0][half] = __byte_perm(pairs[2 * half], pairs[2 * half + 1], hi_first ? 0x7531 : 0x6420);
    if constexpr (Traits::kTiles == 2)
      b[1][half] = __byte_perm(pairs[2 * half], pairs[2 * half + 1], 0x6420);
  }
}

// What z_v adds is a product too: of depth 2, weights.zeros as hi and lo halves.
template <class Traits>
__device__ inline uint32_t zero_weights(const UnitWeights<Traits>& weights) {
  const int t = threadIdx.x % 4, row = Traits::column_row();
  const int lane = row / Traits::kTiles;  // any that has this row
  float zeros = __shfl_sync(kAllLanes, weights.zeros[0], lane);
  if constexpr (Traits::kTiles == 2) {
    const float odd = __shfl_sync(kAllLanes, weights.zeros[1], lane);
    if (row % 2 == 1) zeros = odd;
  }
  const uint2 split = split_pair<false>({zeros, 0.0f});
  const bool counts = t == 0 && (Traits::kTiles == 2 || Traits::column_is_hi());
  return counts ? __byte_perm(split.x, split.y, 0x5410) : 0u;
}

// A: zeros of channels g and g + 8, each in both halves of a register; what else it holds meets
// zeros of B.
template <class Traits>
__device__ inline void add_zeros(const uint32_t (&a)[4], const uint32_t (&b)[2],
                                 float (&out)[2 * Traits::kTiles]) {
  if constexpr (Traits::kTiles == 2) {
    mma_m16n8k16(out, a, b);
  } else {
    float d[4] = {out[0], 0.0f, out[1], 0.0f};
    mma_m16n8k16(d, a, b);
    out[0] = d[0], out[1] = d[2];
  }
}

template <class Traits, int kBits, bool kPerToken>
__device__ inline void sum_codes(AttendStream<Traits>& stream, const Unit& unit,
                                 const std::byte* header, const WarpShared<Traits>& shared,
                                 const UnitWeights<Traits>& weights, RowState<Traits>& state) {
  using Tile = CodeTile<kBits>;
  constexpr int kC = Traits::kChannels, kTiles = Traits::kTiles;
  constexpr int kColumns = Traits::kTokens / 32, kRowBytes = kColumns * Tile::kBytes;
  constexpr int kSums = group_rows<kC>(kBits, Traits::kTokens) / 16;
  constexpr int kTogether = kSums / Tile::kRowTiles;
  const int lane = threadIdx.x % 32, tokens = unit.tokens;
  const bool full = tokens == Traits::kTokens;
  const __half* zeros = reinterpret_cast<const __half*>(header) + 3 * kC;
  uint32_t b[kColumns][kTiles][2];
  if (full) {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) load_weights(shared, 32 * column, b[column]);
  }
  const uint32_t zero_b[2] = {kPerToken ? 0u : zero_weights(weights), 0u};
  stream.begin(piece_bytes<kC>(kBits, tokens));
#pragma unroll
  for (int group = 0; group < Traits::kChannelTiles; group += kSums) {
    int32_t sums[kSums][kTiles][4] = {};
    const auto add = [&](const std::byte* tile_bytes, int row,
                         const uint32_t(&column_b)[kTiles][2]) {
      const Tile codes(tile_bytes);
#pragma unroll
      for (int i = 0; i < Tile::kRowTiles; ++i)
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
          mma_m16n8k32_unsigned(sums[row * Tile::kRowTiles + i][tile], codes.a[i], column_b[tile]);
    };
    if (full) {
      const bool ended = group > 0 && group / Tile::kRowTiles * kRowBytes % kPieceBytes<kC> == 0;
      const std::byte* tiles = stream.next(kTogether * kRowBytes, ended);
#pragma unroll
      for (int column = 0; column < kColumns; ++column)
#pragma unroll
        for (int row = 0; row < kTogether; ++row)
          add(tiles + row * kRowBytes + column * Tile::kBytes, row, b[column]);
    } else {
#pragma unroll
      for (int row = 0; row < kTogether; ++row)
#pragma unroll 1
        for (int token = 0; token < tokens; token += 32) {
          uint32_t column_b[kTiles][2];
          load_weights(shared, token, column_b);
          add(stream.next(Tile::kBytes), row, column_b);
        }
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      float(&out)[2 * kTiles] = state.out[group + i];
      // Both halves of a register are the zero (0, 1) or scale (2, 3) of channel g or g + 8.
      uint32_t two[4];
      if constexpr (!kPerToken) {
        load_transposed(zeros - lane / 16 * kC + (group + i) * 16 + lane / 8 % 2 * 8, two);
        add_zeros<Traits>(two, zero_b, out);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float scale = kPerToken ? 1.0f : __low2float(pair_of_bits<__half2>(two[2 + half]));
#pragma unroll
        for (int r = 0; r < kTiles; ++r) {
          const float sum = static_cast<float>(join_planes<Traits>(sums[i], half, r));
          const float factor =
              weights.factor[r] * (1.0f / Tile::row_scale(i % Tile::kRowTiles, half));
          float& one = out[half * kTiles + r];
          one = fmaf(sum * factor, scale, one);
          if (kPerToken) one += weights.zeros[r];
        }
      }
    }
  }
}

// B of 16-bit products over the 32 tokens from `token` on: of pairs 0 and 2, then 1 and 3, as
// HalfSums takes them.
template <class Traits>
__device__ inline void load_half_weights(const WarpShared<Traits>& shared, int token,
                                         uint32_t (&b)[Traits::kTiles][2][2]) {
  const int lane = threadIdx.x % 32;
  const int first = token + lane % 8 / 2 * 8 + lane / 8 % 2 * 4 + lane / 16 * 2 + lane % 2;
#pragma unroll
  for (int tile = 0; tile < Traits::kTiles; ++tile) {
    uint32_t four[4];
    load_transposed(shared.weights[tile][first], four);
    b[tile][0][0] = four[0], b[tile][0][1] = four[1];
    b[tile][1][0] = four[2], b[tile][1][1] = four[3];
  }
}

template <class Traits, bool kBf16>
__device__ inline void sum_halves(AttendStream<Traits>& stream, const Unit& unit,
                                  const WarpShared<Traits>& shared,
                                  const UnitWeights<Traits>& weights, RowState<Traits>& state) {
  constexpr int kTiles = Traits::kTiles, kColumns = Traits::kTokens / 32;
  constexpr uint32_t kRowsBytes = 16 * Traits::kTokens;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, tokens = unit.tokens;
  const bool full = tokens == Traits::kTokens;
  uint32_t b[kColumns][kTiles][2][2];
#pragma unroll
  for (int column = 0; column < kColumns; ++column)
    if (column == 0 || full) load_half_weights(shared, 32 * column, b[column]);
  stream.begin(piece_bytes<Traits::kChannels>(16, tokens));
#pragma unroll
  for (int eight = 0; eight < Traits::kChannels / 8; ++eight) {
    HalfSums<Traits> sums;
    // Eight tokens from 8 t on of channel g.
    const auto add = [&](const uint4& v4, const uint32_t(&column_b)[kTiles][2][2]) {
      const uint32_t v[4] = {v4.x, v4.y, v4.z, v4.w};
#pragma unroll
      for (int pair = 0; pair < 2; ++pair)
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
          sums.template add<kBf16>(v, tile, pair, column_b[tile][pair]);
    };
    if (full) {
      const bool ended = eight > 0 && eight * kRowsBytes % kPieceBytes<Traits::kChannels> == 0;
      const std::byte* row = stream.next(kRowsBytes, ended) + g * 2 * Traits::kTokens + t * 16;
#pragma unroll
      for (int column = 0; column < kColumns; ++column)
        add(*reinterpret_cast<const uint4*>(row + column * 64), b[column]);
    } else if (unit.first_open >= 0) {  // rows are tokens: transposed on the way
      constexpr uint32_t kOpenBytes = 16 * kOpenUnitTokens;
      const bool ended = eight > 0 && eight * kOpenBytes % kPieceBytes<Traits::kChannels> == 0;
      const std::byte* rows = stream.next(kOpenBytes, ended);
      uint32_t v[4];
      load_transposed(rows + (lane % 8 / 2 * 8 + lane / 8 * 2 + lane % 2) * 16, v);
      add({v[0], v[1], v[2], v[3]}, b[0]);
    } else {
      const std::byte* rows = stream.next(16 * tokens);
#pragma unroll 1
      for (int token = 0; token < tokens; token += 32) {
        uint32_t column_b[kTiles][2][2];
        load_half_weights(shared, token, column_b);
        add(*reinterpret_cast<const uint4*>(rows + g * 2 * tokens + token * 2 + t * 16), column_b);
      }
    }
#pragma unroll
    for (int r = 0; r < kTiles; ++r) {
      float& out = state.out[eight / 2][eight % 2 * kTiles + r];
      out = fmaf(sums.of_row(r), weights.merge[r], out);
    }
  }
}

}  // namespace vkv
