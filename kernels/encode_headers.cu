// encode_headers.cu: headers of segments and means of keys, over any number of rows.
// SPDX-License-Identifier: Apache-2.0
//
// A block of threads has sixteen channels, a sector of memory a row; thread (j, c) keeps partial
// sum j of channel c. Rows are read again for each pass, from the second-level cache.
#include "kernels/cuda_handles.h"
#include "kernels/encode_kernels.h"
#include "kernels/lane_scale.cuh"

namespace vkv {
namespace {

constexpr int kChannels = 16;
constexpr int kThreads = kChannels * kPartialSums;

// Where the values of one KV head are read.
struct SegmentValues {
  const EncodePart& part;
  int kv_head;
  const float* rotated;  // [row_count, head_dim] of the KV head; nullptr: not rotated

  __device__ float at(int row, int channel, float mean) const {
    if (rotated != nullptr) return rotated[static_cast<size_t>(row) * part.head_dim + channel];
    return float_from_bits(__ldg(part.token(kv_head, row) + channel), part.bfloat) - mean;
  }
  __device__ float mean(int channel) const {
    const bool centred = part.mean != nullptr && rotated == nullptr;
    return centred ? part.mean[kv_head * part.head_dim + channel] : 0.0f;
  }
};

struct SegmentShared {
  float sums[kPartialSums][kChannels + 1];
  float results[kChannels];
};

// All threads of the block must call a lane's functions.
struct SegmentLane {
  const SegmentValues& values;
  SegmentShared& shared;
  int channel;  // past head_dim: a lane of zeros
  float mean;

  __device__ int count() const { return values.part.row_count; }

  template <class Visit>
  __device__ void for_each(const Visit& visit) const {
    const bool exists = channel < values.part.head_dim;
#pragma unroll 4
    for (int row = threadIdx.x / kChannels; row < count(); row += kPartialSums)
      visit(exists ? values.at(row, channel, mean) : 0.0f);
  }

  // Combines what the 32 threads of each channel have, in the order of the tree of codec.h.
  template <class Combine>
  __device__ float over_threads(float own, const Combine& combine) const {
    shared.sums[threadIdx.x / kChannels][threadIdx.x % kChannels] = own;
    __syncthreads();
    const int warp = threadIdx.x / 32;  // as many as channels
    float all = shared.sums[threadIdx.x % 32][warp];
    for (int step = 16; step > 0; step /= 2)
      all = combine(all, __shfl_xor_sync(kAllLanes, all, step));
    if (threadIdx.x % 32 == 0) shared.results[warp] = all;
    __syncthreads();
    return shared.results[threadIdx.x % kChannels];
  }
  __device__ float tree(float own) const {
    return over_threads(own, [](float a, float b) { return a + b; });
  }

  template <class Term>
  __device__ float sum_of(const Term& term) const {
    float sum = 0.0f;
    for_each([&](float x) { sum += term(x); });
    return tree(sum);
  }

  __device__ LaneSplit split_at(float middle) const {
    float upper_count = 0.0f, upper = 0.0f, lower = 0.0f;
    for_each([&](float x) {
      upper_count += x >= middle ? 1.0f : 0.0f;
      upper += x >= middle ? x : 0.0f;
      lower += x >= middle ? 0.0f : x;
    });
    upper_count = tree(upper_count);
    upper = tree(upper);
    lower = tree(lower);
    return {upper_count, upper / upper_count, lower / (static_cast<float>(count()) - upper_count)};
  }

  template <int kBits>
  __device__ auto candidates(const LaneRange& range) const {
    return [=](int step) { return shrunk_candidate<kBits>(range, step); };
  }

  __device__ LaneRange range() const {
    const bool is_1_bit = values.part.codec == Codec::kI1;
    const float first = channel < values.part.head_dim ? values.at(0, channel, mean) : 0.0f;
    float min = first, max = first;
    for_each([&](float x) { min = least_or_nan(min, x), max = greatest_or_nan(max, x); });
    min = over_threads(min, least_or_nan);
    max = over_threads(max, greatest_or_nan);
    const float sum = is_1_bit ? sum_of([](float x) { return x; }) : 0.0f;
    return {min, max, sum, first, min == max, is_finite(min) && is_finite(max)};
  }
};

struct SegmentBlock {
  const EncodePart& part;
  int kv_head;
  int channel;
  const float* rotated;
};

__device__ SegmentBlock segment_block(const EncodeLaunch& launch, const float* rotated) {
  const int tiles = launch.lanes_max / kChannels;
  const int channel = static_cast<int>(blockIdx.x % tiles) * kChannels + threadIdx.x % kChannels;
  const int kv_head = static_cast<int>(blockIdx.x / tiles % launch.kv_heads_max);
  const EncodePart& part = launch.parts[blockIdx.x / tiles / launch.kv_heads_max];
  const size_t values = static_cast<size_t>(part.row_count) * part.head_dim;
  return {part, kv_head, channel, part.rotated ? rotated + values * kv_head : nullptr};
}

__device__ HeaderEntry segment_entry(const SegmentLane& lane, const LaneRange& range) {
  const EncodePart& part = lane.values.part;
  const float limit = static_cast<float>(code_max(bits_of(part.codec)));
  switch (part.codec) {
    case Codec::kI8:
      return header_entry(lane_scale<8>(lane, range), part.spread, limit);
    case Codec::kI4:
      return header_entry(lane_scale<4>(lane, range), part.spread, limit);
    case Codec::kI2:
      return header_entry(lane_scale<2>(lane, range), part.spread, limit);
    case Codec::kI1:
      return header_entry(lane_scale<1>(lane, range), part.spread, limit);
    default:
      return {0, 0};  // 16 bit: its half of the header is zero
  }
}

__global__ void __launch_bounds__(kThreads)
    encode_headers_kernel(const EncodeLaunch launch, const float* rotated) {
  __shared__ SegmentShared shared;
  const SegmentBlock block = segment_block(launch, rotated);
  const EncodePart& part = block.part;
  const SegmentValues values = {part, block.kv_head, block.rotated};
  const float mean = block.channel < part.head_dim ? values.mean(block.channel) : 0.0f;
  const SegmentLane lane = {values, shared, block.channel, mean};

  HeaderEntry entry = {0, 0};
  if (!is_16_bit(part.codec)) {
    const LaneRange range = lane.range();
    if (__syncthreads_or(!range.finite)) {
      report_not_finite(part, block.kv_head, launch.first_error);
      return;
    }
    entry = segment_entry(lane, range);
  }
  if (threadIdx.x >= kChannels) return;
  uint16_t* scales = part.scales + block.kv_head * (part.head_header / 2) + block.channel;
  scales[0] = entry.scale;
  scales[part.lanes()] = entry.zero;
  if (!entry.is_finite())
    report_error(part, block.kv_head, EncodeError::kChannelRange, block.channel,
                 launch.first_error);
}

__global__ void __launch_bounds__(kThreads)
    mean_key_kernel(const EncodeLaunch launch, float* mean) {
  __shared__ SegmentShared shared;
  const SegmentBlock block = segment_block(launch, nullptr);
  const SegmentValues values = {block.part, block.kv_head, nullptr};
  const SegmentLane lane = {values, shared, block.channel, 0.0f};
  bool finite = true;
  const float sum = lane.sum_of([&](float x) {
    finite = finite && is_finite(x);
    return x;
  });
  if (__syncthreads_or(!finite)) report_not_finite(block.part, block.kv_head, launch.first_error);
  if (threadIdx.x < kChannels && block.channel < block.part.head_dim)
    mean[block.kv_head * block.part.head_dim + block.channel] =
        sum / static_cast<float>(block.part.row_count);
}

// rotated: [kv_heads, row_count, head_dim].
__global__ void rotate_keys_kernel(const EncodePart* parts, float* rotated) {
  const EncodePart& part = parts[0];
  const int threads_a_row = part.head_dim / 8;
  const size_t index = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) / threads_a_row;
  const int channel = threadIdx.x % threads_a_row * 8;
  const size_t rows = static_cast<size_t>(part.row_count);
  const bool exists = index < rows * part.kv_heads;
  float values[8] = {};
  if (exists)
    load_eight(part, static_cast<int>(index / rows), static_cast<int>(index % rows), channel,
               values);
  rotate_eight(values, part.head_dim);
  if (!exists) return;
  float4* target = reinterpret_cast<float4*>(rotated + index * part.head_dim + channel);
  target[0] = {values[0], values[1], values[2], values[3]};
  target[1] = {values[4], values[5], values[6], values[7]};
}

uint32_t block_count(const EncodeLaunch& launch) {
  return launch.part_count * static_cast<uint32_t>(launch.kv_heads_max) *
         static_cast<uint32_t>(launch.lanes_max / kChannels);
}

}  // namespace

Status launch_encode_headers(const EncodeLaunch& launch, float* rotated, cudaStream_t stream) {
  if (launch.rotated) {
    // A part's lanes are its head_dim here, unless that is 8 or 16: some threads too many then.
    constexpr int kRotateThreads = 256;
    const size_t threads = static_cast<size_t>(launch.samples_max) * launch.kv_heads_max *
                           static_cast<size_t>(launch.lanes_max / 8);
    const size_t blocks = (threads + kRotateThreads - 1) / kRotateThreads;
    rotate_keys_kernel<<<static_cast<uint32_t>(blocks), kRotateThreads, 0, stream>>>(launch.parts,
                                                                                     rotated);
    VKV_TRY(launch_status("rotate_keys_kernel"));
  }
  encode_headers_kernel<<<block_count(launch), kThreads, 0, stream>>>(launch, rotated);
  return launch_status("encode_headers_kernel");
}

Status launch_mean_key(const EncodeLaunch& launch, float* mean, cudaStream_t stream) {
  mean_key_kernel<<<block_count(launch), kThreads, 0, stream>>>(launch, mean);
  return launch_status("mean_key_kernel");
}

}  // namespace vkv
