// attend_launch.cuh: the attention kernel from its parts, and how it is started.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attend_launch.h"
#include "kernels/attend_scores.cuh"
#include "kernels/attend_values.cuh"
#include "kernels/cuda_handles.h"
#include "kernels/overlapped_launch.cuh"

namespace vkv {

// Query rows on their way: four channels at a time.
template <class Traits>
struct QueryQuads {
  static constexpr int kThreads = Traits::kWarps * 32, kValues = Traits::kRows * Traits::kChannels;
  static constexpr int kCount = (kValues / 4 + kThreads - 1) / kThreads;  // of a thread
  float4 quads[kCount];

  __device__ QueryQuads(const AttendSource& source, const AttendTask& task) {
    const int group_heads = source.q_heads / source.kv_heads;
    const int row_count = source.q_len * group_heads;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int channel = at(i) % Traits::kChannels;
      const int row = task.row_begin + at(i) / Traits::kChannels;
      quads[i] = {};
      if (at(i) < kValues && row < row_count && channel < source.head_dim) {
        const size_t head = static_cast<size_t>(row / group_heads) * source.q_heads +
                            task.kv_head * group_heads + row % group_heads;
        quads[i] = *reinterpret_cast<const float4*>(source.q + head * source.head_dim + channel);
      }
    }
  }
  static __device__ int at(int i) { return 4 * (threadIdx.x + i * kThreads); }
};

// Query rows in fp32, rotated if any block asks for it. any_by_value: what units need that are 16
// bit or whose codes are not relative to the mean.
template <class Traits>
__device__ inline void store_queries(const QueryQuads<Traits>& loaded, const AttendSource& source,
                                     const AttendTask& task, bool any_by_value,
                                     AttendShared<Traits>& shared) {
  constexpr int kC = Traits::kChannels, kRows = Traits::kRows, kThreads = Traits::kWarps * 32;
  constexpr float kLog2E = 1.44269504088896340736f;
  const float scale = source.scale * kLog2E;
#pragma unroll
  for (int i = 0; i < QueryQuads<Traits>::kCount; ++i) {
    const int at = loaded.at(i);
    if (at >= QueryQuads<Traits>::kValues) break;
    const float4 one = loaded.quads[i];
    const float4 four = {one.x * scale, one.y * scale, one.z * scale, one.w * scale};
    *reinterpret_cast<float4*>(&shared.q[0][0][0] + at) = four;
    *reinterpret_cast<float4*>(&shared.q[1][0][0] + at) = four;
  }
  if (source.k_mean != nullptr)
    for (int channel = threadIdx.x; channel < kC; channel += kThreads)
      shared.mean[channel] = channel < source.head_dim
                                 ? source.k_mean[task.kv_head * source.head_dim + channel]
                                 : 0.0f;
  __syncthreads();

  // Hadamard: q.Hk = Hq.k.
  if (source.any_rotated) {
    for (int distance = 1; distance < source.head_dim; distance *= 2) {
      for (int i = threadIdx.x; i < kRows * kC / 2; i += kThreads) {
        const int pair = i % (kC / 2);
        const int channel = pair / distance * 2 * distance + pair % distance;
        if (channel >= source.head_dim) continue;
        float* row = shared.q[1][i / (kC / 2)];
        const float a = row[channel], b = row[channel + distance];
        row[channel] = a + b;
        row[channel + distance] = a - b;
      }
      __syncthreads();
    }
    const float normalise = rsqrtf(static_cast<float>(source.head_dim));
    for (int i = threadIdx.x; i < kRows * kC; i += kThreads)
      shared.q[1][i / kC][i % kC] *= normalise;
    __syncthreads();
  }

  // Of each row its largest value and its product with the mean.
  if (!any_by_value) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int row = warp; row < kRows; row += Traits::kWarps) {
    float most = 0.0f;
    double product = 0.0;
    for (int channel = lane; channel < kC; channel += 32) {
      most = fmaxf(most, fabsf(shared.q[0][row][channel]));
      if (source.k_mean != nullptr)
        product += static_cast<double>(shared.q[0][row][channel]) * shared.mean[channel];
    }
    for (int step = 1; step < 32; step *= 2) {
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, step));
      product += __shfl_xor_sync(kAllLanes, product, step);
    }
    if (lane == 0) {
      int exponent = 0;
      (void)frexpf(most, &exponent);
      shared.half_factor[row] = ldexpf(1.0f, exponent);
      shared.q_mean[row] = static_cast<float>(product);
    }
  }
  __syncthreads();

  for (int step = warp; step < kC / 16; step += Traits::kWarps) {
    half_queries<Traits, false>(shared, step, shared.q_halves[0][step][lane]);
    half_queries<Traits, true>(shared, step, shared.q_halves[1][step][lane]);
  }
  __syncthreads();
}

template <class Traits>
__device__ inline void score_unit(const AttendSource& source, const Unit& unit,
                                  const std::byte* header, AttendStream<Traits>& stream,
                                  const AttendShared<Traits>& shared, ScoreTable<Traits>& scores) {
  const bool relative = source.k_mean != nullptr;
  const int tokens = unit.tokens;
  stream.begin(piece_bytes<Traits::kChannels>(bits_of(unit.k_codec), Traits::kChannels));
  if (unit.k_codec == Codec::kF16)
    return relative ? score_halves<Traits, false, true>(stream, tokens, shared, scores)
                    : score_halves<Traits, false, false>(stream, tokens, shared, scores);
  if (unit.k_codec == Codec::kBf16)
    return relative ? score_halves<Traits, true, true>(stream, tokens, shared, scores)
                    : score_halves<Traits, true, false>(stream, tokens, shared, scores);
  PlanarQueries<Traits> planar;
  make_planar<Traits>(shared, unit.k_rotated, header, planar);
  if (relative && !unit.centred)
    for (int r = 0; r < Traits::kTiles; ++r)
      planar.beta[r] -= shared.q_mean[Traits::first_row() + r];
  switch (unit.k_codec) {
    case Codec::kI8:
      return score_codes<Traits, 8>(stream, tokens, planar, scores);
    case Codec::kI4:
      return score_codes<Traits, 4>(stream, tokens, planar, scores);
    case Codec::kI2:
      return score_codes<Traits, 2>(stream, tokens, planar, scores);
    default:
      return score_codes<Traits, 1>(stream, tokens, planar, scores);
  }
}

template <class Traits, bool kPerToken>
__device__ inline void sum_all_codes(const Unit& unit, const std::byte* header,
                                     AttendStream<Traits>& stream, const WarpShared<Traits>& shared,
                                     const UnitWeights<Traits>& weights, RowState<Traits>& state) {
  switch (unit.v_codec) {
    case Codec::kI8:
      return sum_codes<Traits, 8, kPerToken>(stream, unit, header, shared, weights, state);
    case Codec::kI4:
      return sum_codes<Traits, 4, kPerToken>(stream, unit, header, shared, weights, state);
    case Codec::kI2:
      return sum_codes<Traits, 2, kPerToken>(stream, unit, header, shared, weights, state);
    default:
      return sum_codes<Traits, 1, kPerToken>(stream, unit, header, shared, weights, state);
  }
}

// The softmax of a unit and its sum over values.
template <class Traits>
__device__ inline void sum_unit(const Unit& unit, const std::byte* header,
                                AttendStream<Traits>& stream, WarpShared<Traits>& shared,
                                Scores<Traits>& scores, RowState<Traits>& state) {
  UnitWeights<Traits> weights;
  if (unit.v_codec == Codec::kF16) {
    take_weights<Traits, WeightKind::kHalves>(unit, header, shared, scores, state, weights);
    return sum_halves<Traits, false>(stream, unit, shared, weights, state);
  }
  if (unit.v_codec == Codec::kBf16) {
    take_weights<Traits, WeightKind::kBfloats>(unit, header, shared, scores, state, weights);
    return sum_halves<Traits, true>(stream, unit, shared, weights, state);
  }
  if (unit.v_per_token) {
    take_weights<Traits, WeightKind::kCodesPerToken>(unit, header, shared, scores, state, weights);
    sum_all_codes<Traits, true>(unit, header, stream, shared, weights, state);
  } else {
    take_weights<Traits, WeightKind::kCodes>(unit, header, shared, scores, state, weights);
    sum_all_codes<Traits, false>(unit, header, stream, shared, weights, state);
  }
}

// The warps' outputs -> the partial of the task, of the rows that exist.
template <class Traits>
__device__ inline void store_partial(const AttendTask& task, int row_count,
                                     const RowState<Traits>& state, AttendShared<Traits>& shared,
                                     const PartialSlots& slots) {
  constexpr int kC = Traits::kChannels, kRows = Traits::kRows;
  constexpr int kStride = kC + 8 / Traits::kTiles;  // a lane's rows in banks of their own
  static_assert(kRows * kStride * sizeof(float) <= sizeof(shared.warps[0].stream));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4;
  float* own = reinterpret_cast<float*>(&shared.warps[warp].stream);
#pragma unroll
  for (int r = 0; r < Traits::kTiles; ++r) {
    const int row = Traits::first_row() + r;
    if (g == 0) shared.max_and_sum[warp][row] = {state.max[r], state.sum[r]};
#pragma unroll
    for (int channels = 0; channels < Traits::kChannelTiles; ++channels)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        own[row * kStride + channels * 16 + half * 8 + g] =
            state.out[channels][half * Traits::kTiles + r];
  }
  __syncthreads();
  for (int at = 4 * threadIdx.x; at < row_count * kC; at += 4 * Traits::kWarps * 32) {
    const int row = at / kC, channel = at % kC;
    float max = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int w = 0; w < Traits::kWarps; ++w) max = fmaxf(max, shared.max_and_sum[w][row].x);
    float4 out = {};
#pragma unroll
    for (int w = 0; w < Traits::kWarps; ++w) {
      const float2 one = shared.max_and_sum[w][row];
      const float weight = one.x == -INFINITY ? 0.0f : exp2_fast(one.x - max);
      const float4 four = *reinterpret_cast<const float4*>(
          reinterpret_cast<const float*>(&shared.warps[w].stream) + row * kStride + channel);
      out.x += weight * four.x;
      out.y += weight * four.y;
      out.z += weight * four.z;
      out.w += weight * four.w;
      sum += weight * one.y;
    }
    *reinterpret_cast<float4*>(slots.out + static_cast<size_t>(task.slot) * kRows * kC + at) = out;
    if (channel == 0) slots.max_and_sum[task.slot * kRows + row] = {max, sum};
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kWarps * 32, Traits::kThreadBlocks)
    attend_kernel(const AttendSource* sources, const AttendTask* tasks, PartialSlots slots) {
  let_next_begin();
  wait_for_previous();
  constexpr int kWarps = Traits::kWarps;
  AttendShared<Traits>& shared = attend_shared<Traits>();
  const AttendTask task = tasks[blockIdx.x];
  const int warp = threadIdx.x / 32;

  // 1. Tables.
  const int unit_count = task.unit_end - task.unit_begin;
  bool by_value = false;
  for (int i = threadIdx.x; i < unit_count; i += kWarps * 32) {
    const AttendSource& all = sources[task.source];
    const Unit unit = unit_of<Traits::kChannels>(all, task.kv_head, task.unit_begin + i);
    by_value |= is_16_bit(unit.k_codec) || (all.k_mean != nullptr && !unit.centred);
    shared.units[i] = unit;
  }
  if (threadIdx.x == 0) {
    shared.source = sources[task.source];
    const uint32_t valid_bytes = 2u * shared.source.head_dim;
    shared.open_rows = {.stride_bytes = valid_bytes * shared.source.kv_heads,
                        .valid_bytes = valid_bytes};
  }
  const bool any_by_value = __syncthreads_or(by_value);

  // 2. Queries, and the first pieces. Units are counted from the first of all, so that where there
  // is no work for each warp of a task, it is not always the same ones that have less.
  const AttendSource& source = shared.source;
  const int first = (warp + kWarps - task.unit_begin % kWarps) % kWarps;
  const QueryQuads<Traits> queries(source, task);
  AttendStream<Traits> stream(first, unit_count);
  store_queries<Traits>(queries, source, task, any_by_value, shared);

  // 3. Unit after unit.
  RowState<Traits> state;
  for (int r = 0; r < Traits::kTiles; ++r) {
    state.max[r] = -INFINITY;
    state.sum[r] = 0.0f;
    for (int channels = 0; channels < Traits::kChannelTiles; ++channels)
      state.out[channels][r] = state.out[channels][Traits::kTiles + r] = 0.0f;
  }
  for (int index = first; index < unit_count; index += kWarps) {
    const Unit& unit = shared.units[index];
    const std::byte* header = stream.next_header();
    WarpShared<Traits>& own = shared.warps[warp];
    score_unit<Traits>(source, unit, header, stream, shared, own.scores);
    Scores<Traits> scores;
    load_scores<Traits>(source, unit, task.row_begin, own.scores, scores);
    sum_unit<Traits>(unit, header, stream, own, scores, state);
    __syncwarp();
  }
  __syncwarp();
  const int row_count = source.q_len * (source.q_heads / source.kv_heads) - task.row_begin;
  store_partial<Traits>(task, min(row_count, Traits::kRows), state, shared, slots);
}

template <int kChannels>
template <int kTiles>
Status AttendKernels<kChannels>::run(const AttendLaunch& launch, cudaStream_t stream) {
  using Traits = AttendTraits<kChannels, kTiles>;
  return launch_overlapped("attend", attend_kernel<Traits>,
                           {.grid = dim3(launch.task_count),
                            .block = dim3(Traits::kWarps * 32),
                            .shared_bytes = sizeof(AttendShared<Traits>)},
                           stream, launch.sources, launch.tasks, launch.slots);
}

template <int kChannels>
template <int kTiles>
Result<int> AttendKernels<kChannels>::resident() {
  using Traits = AttendTraits<kChannels, kTiles>;
  constexpr auto kernel = attend_kernel<Traits>;
  constexpr size_t kShared = sizeof(AttendShared<Traits>);
  VKV_TRY(cuda_status(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
      "cudaFuncSetAttribute of attend"));
  int blocks = 0;
  VKV_TRY(cuda_status(
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, Traits::kWarps * 32, kShared),
      "cudaOccupancyMaxActiveBlocksPerMultiprocessor"));
  return blocks;
}

}  // namespace vkv
