// encode_halves.cu: parts that stay at 16 bit: K as it is, V transposed, both checked and
// converted. SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda_handles.h"
#include "kernels/encode_kernels.h"
#include "kernels/encode_values.cuh"

namespace vkv {
namespace {

constexpr int kThreads = 256;
constexpr int kChannels = 64;            // of a tile
constexpr int kStride = kChannels + 10;  // halves: what is read below meets no bank twice
constexpr int kTokensMax = 256;

// Eight values in the part's codec; `bad` where one is not finite, or no longer.
__device__ uint4 converted(const EncodePart& part, uint4 bits, bool& bad) {
  uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
  const uint32_t exponent = part.codec == Codec::kBf16 ? 0x7f80u : 0x7c00u;
  const bool same = part.bfloat == (part.codec == Codec::kBf16);
  for (uint32_t& pair : pairs) {
    if (!same) {
      const float2 values = floats_from_pair(pair, part.bfloat);
      bad |= !is_finite(values.x) || !is_finite(values.y);
      pair = float_to_16_bit(part.codec, values.x) |
             static_cast<uint32_t>(float_to_16_bit(part.codec, values.y)) << 16;
    }
    bad |= (pair & exponent) == exponent || (pair >> 16 & exponent) == exponent;
  }
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

// The CPU goes through tokens, then channels, and at the first bad value names its channel if it
// became too large, or else the first channel with a value that is not finite.
__device__ void report_bad_value(const EncodePart& part, int kv_head, uint64_t* first_error) {
  __shared__ uint32_t first_bad;  // token, channel, whether it became too large
  if (threadIdx.x == 0) first_bad = ~0u;
  __syncthreads();
  for (int i = threadIdx.x; i < part.row_count * part.head_dim; i += kThreads) {
    const int row = i / part.head_dim, channel = i % part.head_dim;
    const float value = float_from_bits(part.token(kv_head, row)[channel], part.bfloat);
    const bool fits = is_finite(value) &&
                      is_finite(float_from_16_bit(part.codec, float_to_16_bit(part.codec, value)));
    if (!fits) atomicMin(&first_bad, static_cast<uint32_t>(i) << 1 | is_finite(value));
  }
  __syncthreads();
  if (first_bad % 2 == 0) {
    report_not_finite(part, kv_head, first_error);
  } else if (threadIdx.x == 0) {
    const int channel = static_cast<int>(first_bad >> 1) % part.head_dim;
    report_error(part, kv_head, EncodeError::kTooLarge, channel, first_error);
  }
}

// A tile of 64 channels of one KV head, all tokens.
__global__ void __launch_bounds__(kThreads) encode_halves_kernel(const EncodeLaunch launch) {
  __shared__ uint32_t transposed[kTokensMax * kStride / 2];
  const int channel_begin = static_cast<int>(blockIdx.x) * kChannels;
  const int kv_head = static_cast<int>(blockIdx.y);
  const EncodePart& part = launch.parts[blockIdx.z];
  const int channels = padded_channels(part.head_dim);
  if (kv_head >= part.kv_heads || channel_begin >= channels) return;

  // 1. K goes straight to the record; V waits for all tokens.
  std::byte* payload = part.payload + size_t{part.head_payload} * kv_head;
  bool bad = false;
  for (int i = threadIdx.x; i < part.padded_rows * (kChannels / 8); i += kThreads) {
    const int row = i / (kChannels / 8), column = i % (kChannels / 8) * 8;
    const int channel = channel_begin + column;
    if (channel >= channels) continue;
    uint4 bits = {};
    if (row < part.row_count && channel < part.head_dim)
      bits = converted(
          part, __ldg(reinterpret_cast<const uint4*>(part.token(kv_head, row) + channel)), bad);
    if (!part.is_v) {
      reinterpret_cast<uint4*>(payload)[(row * channels + channel) / 8] = bits;
    } else {
      uint32_t* target = transposed + (row * kStride + column) / 2;
      target[0] = bits.x, target[1] = bits.y, target[2] = bits.z, target[3] = bits.w;
    }
  }

  // 2. A header that belongs to the other part of the item.
  if (part.scales != nullptr && channel_begin == 0) {
    uint16_t* scales = part.scales + kv_head * (part.head_header / 2);
    for (int i = threadIdx.x; i < 2 * channels; i += kThreads) scales[i] = 0;
  }
  if (__syncthreads_or(bad)) {
    report_bad_value(part, kv_head, launch.first_error);
    return;
  }
  if (!part.is_v) return;

  // 3. Eight tokens of a channel a thread; a warp has four such groups of eight channels.
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(transposed);
  const int groups = part.padded_rows / 8, tile_channels = min(kChannels, channels - channel_begin);
  for (int i = threadIdx.x; i < tile_channels * groups; i += kThreads) {
    const int quad = i / 32, quads = groups / 4;
    const int group = quad % quads * 4 + i % 4;
    const int channel = quad / quads * 8 + i % 32 / 4;
    const uint16_t* column = halves + group * 8 * kStride + channel;
    uint32_t pairs[4];
    for (int j = 0; j < 4; ++j)
      pairs[j] = column[2 * j * kStride] | static_cast<uint32_t>(column[(2 * j + 1) * kStride])
                                               << 16;
    const int at = ((channel_begin + channel) * part.padded_rows + group * 8) / 8;
    reinterpret_cast<uint4*>(payload)[at] = {pairs[0], pairs[1], pairs[2], pairs[3]};
  }
}

}  // namespace

Status launch_encode_halves(const EncodeLaunch& launch, cudaStream_t stream) {
  encode_halves_kernel<<<launch_grid(launch, kChannels), kThreads, 0, stream>>>(launch);
  return launch_status("encode_halves_kernel");
}

}  // namespace vkv
