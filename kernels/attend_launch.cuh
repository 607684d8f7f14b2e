// attend_launch.cuh: the attention kernel from its parts, and how it is started.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/attend_launch.h"
#include "kernels/attend_scores.cuh"
#include "kernels/attend_values.cuh"
#include "kernels/cuda_handles.h"

namespace vkv {

// Query rows in fp32, rotated if any block asks for it, and as operands of 16-bit products.
template <class Traits>
__device__ inline void load_queries(const AttendSource& source, const AttendTask& task,
                                    AttendShared<Traits>& shared) {
  constexpr int kC = Traits::kChannels;
  constexpr float kLog2E = 1.44269504088896340736f;
  const int group_heads = source.q_heads / source.kv_heads;
  const int row_count = source.q_len * group_heads;
  for (int i = threadIdx.x; i < Traits::kRows * kC; i += blockDim.x) {
    const int row = task.row_begin + i / kC, channel = i % kC;
    float value = 0.0f;
    if (row < row_count && channel < source.head_dim) {
      const size_t head = static_cast<size_t>(row / group_heads) * source.q_heads +
                          task.kv_head * group_heads + row % group_heads;
      value = source.q[head * source.head_dim + channel] * source.scale * kLog2E;
    }
    shared.q[i / kC][channel] = value;
    shared.q_rotated[i / kC][channel] = value;
  }
  for (int channel = threadIdx.x; channel < kC; channel += blockDim.x) {
    const bool exists = source.k_mean != nullptr && channel < source.head_dim;
    shared.mean[channel] = exists ? source.k_mean[task.kv_head * source.head_dim + channel] : 0.0f;
  }
  __syncthreads();

  // Hadamard: q.Hk = Hq.k.
  for (int distance = 1; source.any_rotated && distance < source.head_dim; distance *= 2) {
    for (int i = threadIdx.x; i < Traits::kRows * kC / 2; i += blockDim.x) {
      const int pair = i % (kC / 2);
      const int channel = pair / distance * 2 * distance + pair % distance;
      if (channel >= source.head_dim) continue;
      float* row = shared.q_rotated[i / (kC / 2)];
      const float a = row[channel], b = row[channel + distance];
      row[channel] = a + b;
      row[channel + distance] = a - b;
    }
    __syncthreads();
  }
  const float normalise = rsqrtf(static_cast<float>(source.head_dim));
  for (int i = threadIdx.x; source.any_rotated && i < Traits::kRows * kC; i += blockDim.x)
    shared.q_rotated[i / kC][i % kC] *= normalise;

  // Of each row its largest value and its product with the mean.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int row = warp; row < Traits::kRows; row += kAttendWarps) {
    float most = 0.0f;
    double product = 0.0;
    for (int channel = lane; channel < kC; channel += 32) {
      most = fmaxf(most, fabsf(shared.q[row][channel]));
      product += static_cast<double>(shared.q[row][channel]) * shared.mean[channel];
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

  for (int i = warp; i < Traits::kTiles * (kC / 16); i += kAttendWarps) {
    const int tile = i / (kC / 16), step = i % (kC / 16);
    shared.q_halves[tile][step][lane] = source.half_codec == Codec::kBf16
                                            ? half_queries<Traits, true>(shared, tile, step)
                                            : half_queries<Traits, false>(shared, tile, step);
  }
  __syncthreads();
}

template <class Traits>
__device__ inline void score_unit(const AttendSource& source, const Unit& unit,
                                  const std::byte* header, AttendStream<Traits>& stream,
                                  const AttendShared<Traits>& shared, ScoreTable<Traits>& scores) {
  const bool relative = source.k_mean != nullptr;
  const bool stored = unit.k_codec == source.half_codec;
  if (unit.k_codec == Codec::kF16)
    return score_halves<Traits, false>(stream, unit, shared, relative, stored, scores);
  if (unit.k_codec == Codec::kBf16)
    return score_halves<Traits, true>(stream, unit, shared, relative, stored, scores);
  PlanarQueries<Traits> planar;
  make_planar<Traits>(unit.k_rotated ? shared.q_rotated : shared.q, header, planar);
  if (relative && !unit.centred)
    for (int tile = 0; tile < Traits::kTiles; ++tile)
      planar.beta[tile] -= shared.q_mean[tile * kRowsPerTile + threadIdx.x % 4];
  switch (unit.k_codec) {
    case Codec::kI8:
      return score_codes<Traits, 8>(stream, unit.tokens, planar, scores);
    case Codec::kI4:
      return score_codes<Traits, 4>(stream, unit.tokens, planar, scores);
    case Codec::kI2:
      return score_codes<Traits, 2>(stream, unit.tokens, planar, scores);
    default:
      return score_codes<Traits, 1>(stream, unit.tokens, planar, scores);
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
  if (unit.v_per_token)
    take_weights<Traits, WeightKind::kCodesPerToken>(unit, header, shared, scores, state, weights);
  else
    take_weights<Traits, WeightKind::kCodes>(unit, header, shared, scores, state, weights);
  switch (unit.v_codec) {
    case Codec::kI8:
      return sum_codes<Traits, 8>(stream, unit, header, shared, weights, state);
    case Codec::kI4:
      return sum_codes<Traits, 4>(stream, unit, header, shared, weights, state);
    case Codec::kI2:
      return sum_codes<Traits, 2>(stream, unit, header, shared, weights, state);
    default:
      return sum_codes<Traits, 1>(stream, unit, header, shared, weights, state);
  }
}

// The warps' outputs -> the partial of the task.
template <class Traits>
__device__ inline void store_partial(const AttendTask& task, const RowState<Traits>& state,
                                     AttendShared<Traits>& shared, const PartialSlots& slots) {
  constexpr int kC = Traits::kChannels;
  static_assert(Traits::kRows * kC * sizeof(float) <= sizeof(shared.warps[0].stream));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float* own = reinterpret_cast<float*>(&shared.warps[warp].stream);
#pragma unroll
  for (int tile = 0; tile < Traits::kTiles; ++tile) {
    const int row = tile * kRowsPerTile + t;
    if (g == 0) shared.max_and_sum[warp][row] = {state.max[tile], state.sum[tile]};
#pragma unroll
    for (int channels = 0; channels < Traits::kChannelTiles; ++channels)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        own[row * kC + channels * 16 + half * 8 + g] = state.out[channels][tile][half];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < Traits::kRows * kC; i += blockDim.x) {
    const int row = i / kC;
    float max = -INFINITY;
    for (int w = 0; w < kAttendWarps; ++w) max = fmaxf(max, shared.max_and_sum[w][row].x);
    float out = 0.0f, sum = 0.0f;
    for (int w = 0; w < kAttendWarps; ++w) {
      const float2 one = shared.max_and_sum[w][row];
      const float weight = one.x == -INFINITY ? 0.0f : exp2_fast(one.x - max);
      out += weight * reinterpret_cast<const float*>(&shared.warps[w].stream)[i];
      sum += weight * one.y;
    }
    slots.out[static_cast<size_t>(task.slot) * Traits::kRows * kC + i] = out;
    if (i % kC == 0) slots.max_and_sum[task.slot * Traits::kRows + row] = {max, sum};
  }
}

template <class Traits>
__global__ void __launch_bounds__(kAttendWarps * 32, Traits::kThreadBlocks)
    attend_kernel(const AttendSource* sources, const AttendTask* tasks, PartialSlots slots) {
  AttendShared<Traits>& shared = attend_shared<Traits>();
  const AttendTask task = tasks[blockIdx.x];
  const AttendSource& source = sources[task.source];
  const int warp = threadIdx.x / 32;

  const int unit_count = task.unit_end - task.unit_begin;
  for (int i = threadIdx.x; i < unit_count; i += blockDim.x)
    shared.units[i] = unit_of<Traits::kChannels>(source, task.kv_head, task.unit_begin + i);
  __syncthreads();
  AttendStream<Traits> stream(unit_count);
  load_queries<Traits>(source, task, shared);

  RowState<Traits> state;
  for (int tile = 0; tile < Traits::kTiles; ++tile) {
    state.max[tile] = -INFINITY;
    state.sum[tile] = 0.0f;
    for (int channels = 0; channels < Traits::kChannelTiles; ++channels)
      state.out[channels][tile][0] = state.out[channels][tile][1] = 0.0f;
  }
  for (int index = warp; index < unit_count; index += kAttendWarps) {
    const Unit& unit = shared.units[index];
    const std::byte* header = stream.next_header();
    WarpShared<Traits>& own = shared.warps[warp];
    score_unit<Traits>(source, unit, header, stream, shared, own.scores);
    Scores<Traits> scores;
    load_scores<Traits>(source, unit, task.row_begin, own.scores, scores);
    sum_unit<Traits>(unit, header, stream, own, scores, state);
    __syncwarp();
  }
  stream.finish();
  __syncwarp();
  store_partial<Traits>(task, state, shared, slots);
}

template <int kChannels>
template <int kTiles>
Status AttendKernels<kChannels>::run(const AttendLaunch& launch, cudaStream_t stream) {
  using Traits = AttendTraits<kChannels, kTiles>;
  attend_kernel<Traits>
      <<<launch.task_count, kAttendWarps * 32, sizeof(AttendShared<Traits>), stream>>>(
          launch.sources, launch.tasks, launch.slots);
  return launch_status("attend");
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
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kAttendWarps * 32, kShared),
      "cudaOccupancyMaxActiveBlocksPerMultiprocessor"));
  return blocks;
}

}  // namespace vkv
