// encode_codes.cuh: the kernel that finds scales and writes codes; one .cu a bit width.
// SPDX-License-Identifier: Apache-2.0
//
// A block of threads encodes a tile of lanes of K or V of one KV head. All of a lane's samples stay
// in registers while its scale is searched for, so memory is read once and written once.
#pragma once

#include "kernels/cuda_handles.h"
#include "kernels/encode_kernels.h"
#include "kernels/encode_tile.cuh"

namespace vkv {

// At once on a multiprocessor: leaves 64 registers a thread, or 128. Blocks that stay and fetch the
// next tile meanwhile were slower by an eighth, with 64 registers and with 80: loads do not limit.
template <int kSlots>
inline constexpr int kEncodeBlocks = kSlots == 64 ? 2 : 4;

// At most; two blocks leave 128 registers a thread, or 64.
template <int kSlots>
inline constexpr int kRotatedThreads = kSlots == 64 ? 4 * kTileLanes : 4 * kRotatedTileLanes;

template <int kBits>
__device__ inline uint32_t code_of(float value, const ShrunkScale& s) {
  return __float_as_uint(
      biased_code(value, s.zero, s.inverse, static_cast<float>(code_max(kBits))));
}

// I1: the codes of samples 32 * i + 8 * j + 2 * q + e, j = 0 .. 3, are bits of one byte for each e
// where lanes are columns of the matrix, and of two where they are rows: those planes of a word
// that lie in one lane.
template <bool kLanesAreColumns, int kSlots, bool kFull>
__device__ inline void store_signs(const RegisterLane<kSlots, kFull>& lane, float middle,
                                   uint8_t* target) {
  const auto bit = [&](int slot, uint32_t value) {
    return lane.has(slot) && lane.x[slot] >= middle ? value : 0u;
  };
  const auto pair = [&](int m, int plane) {
    return bit(2 * m, 1u << plane) | bit(2 * m + 1, 0x100u << plane);
  };
#pragma unroll
  for (int m = 0; m < kSlots / 2; m += 4) {
    uint16_t* bytes = reinterpret_cast<uint16_t*>(target + 8 * m);
    if constexpr (kLanesAreColumns) {
      bytes[0] =
          static_cast<uint16_t>(pair(m, 0) | pair(m + 1, 1) | pair(m + 2, 4) | pair(m + 3, 5));
    } else {
      bytes[0] = static_cast<uint16_t>(pair(m, 0) | pair(m + 2, 2));
      bytes[4] = static_cast<uint16_t>(pair(m + 1, 0) | pair(m + 3, 2));
    }
  }
}

// The tile's codes as bytes: [tile.lanes][4 * kSlots + 8].
template <int kBits, bool kLanesAreColumns, int kSlots, bool kFull>
__device__ inline void store_codes(const RegisterLane<kSlots, kFull>& lane,
                                   const HeaderEntry& entry, uint8_t* codes) {
  const float scale = device_float_from_half(entry.scale);
  const float zero = device_float_from_half(entry.zero);
  uint8_t* target = codes + threadIdx.x / 4 * (4 * kSlots + 8) + 2 * lane.quarter;
  if constexpr (kBits == 1) {
    // encode_sign() of codec.h: where scale is 0 no value reaches the middle.
    const float middle = scale == 0.0f ? __int_as_float(0x7f800000) : zero + 0.5f * scale;
    store_signs<kLanesAreColumns>(lane, middle, target);
    return;
  }
  const ShrunkScale s = {scale, zero, inverse_scale(scale)};
#pragma unroll
  for (int m = 0; m < kSlots / 2; ++m) {
    const uint32_t even = code_of<kBits>(lane.x[2 * m], s);
    const uint32_t odd = code_of<kBits>(lane.x[2 * m + 1], s);
    uint32_t pair = __byte_perm(even, odd, 0x0040);
    if (!lane.has(2 * m)) pair = 0;
    if (!lane.has(2 * m + 1)) pair &= 0xffu;
    *reinterpret_cast<uint16_t*>(target + 8 * m) = static_cast<uint16_t>(pair);
  }
}

// Finds or reads the lane's scale and zero, and writes what it found.
template <int kBits, int kSlots, bool kFull>
__device__ inline HeaderEntry make_entry(const EncodeTile& tile,
                                         const RegisterLane<kSlots, kFull>& lane,
                                         const LaneRange& range, uint64_t* first_error) {
  const EncodePart& part = tile.part;
  const int index = tile.lane_begin + tile.lane();
  const bool exists = index < part.lanes();
  uint16_t* scales = part.scales + tile.kv_head * (part.head_header / 2) + index;
  if (part.shared_header)
    return exists ? HeaderEntry{scales[0], scales[part.lanes()]} : HeaderEntry{0, 0};

  const HeaderEntry entry = header_entry(lane_scale<kBits>(lane, range), part.spread,
                                         static_cast<float>(code_max(kBits)));
  if (lane.quarter != 0 || !exists) return entry;
  scales[0] = entry.scale;
  scales[part.lanes()] = entry.zero;
  if (!entry.is_finite()) {
    const EncodeError error =
        part.lanes_are_tokens ? EncodeError::kTokenRange : EncodeError::kChannelRange;
    report_error(part, tile.kv_head, error, index, first_error);
  }
  return entry;
}

// Codes as bytes in shared memory, then as words in the record, in the order of code_position().
template <int kBits, bool kLanesAreColumns, int kSlots, bool kFull>
__device__ inline void store_tile(const EncodeTile& tile, const RegisterLane<kSlots, kFull>& lane,
                                  const HeaderEntry& entry) {
  uint8_t* codes = static_cast<uint8_t*>(tile.shared);
  store_codes<kBits, kLanesAreColumns>(lane, entry, codes);
  __syncthreads();
  store_packed<kBits, kSlots, kLanesAreColumns>(tile, codes);
}

template <int kBits, int kSlots, bool kRotated, bool kFull>
__device__ inline void encode_tile(const EncodeTile& tile, uint64_t* first_error) {
  // 1. All samples into registers.
  const RegisterLane<kSlots, kFull> lane = load_lane<kSlots, kFull, kRotated>(tile);
  LaneRange range;
  if constexpr (kBits == 1)
    range = lane.sum_range();
  else
    range = lane.range();

  // 2. Also waits until the whole tile was read: codes will lie in the same memory.
  if (__syncthreads_or(!range.finite)) {
    report_not_finite(tile.part, tile.kv_head, first_error);
    return;
  }

  // 3. Scales, then codes.
  const HeaderEntry entry = make_entry<kBits>(tile, lane, range, first_error);
  if (tile.part.is_v && !tile.part.lanes_are_tokens)
    store_tile<kBits, false>(tile, lane, entry);
  else
    store_tile<kBits, true>(tile, lane, entry);
}

template <int kBits, int kSlots, bool kRotated>
__device__ inline void encode_tile(const EncodeTile& tile, uint64_t* first_error) {
  if (tile.part.samples() == 4 * kSlots)
    encode_tile<kBits, kSlots, kRotated, true>(tile, first_error);
  else
    encode_tile<kBits, kSlots, kRotated, false>(tile, first_error);
}

// Of this block. The tiles of a token's neighbouring channels are neighbours.
__device__ inline EncodeTile tile_of_block(const EncodeLaunch& launch, void* shared) {
  const int lanes = blockDim.x / 4;
  return {launch.parts[blockIdx.z], static_cast<int>(blockIdx.y),
          static_cast<int>(blockIdx.x) * lanes, lanes, shared};
}

template <int kBits, int kSlots>
__global__ void __launch_bounds__(4 * kTileLanes, kEncodeBlocks<kSlots>)
    encode_codes_kernel(const EncodeLaunch launch) {
  extern __shared__ uint4 shared[];
  const EncodeTile tile = tile_of_block(launch, shared);
  if (!tile.exists()) return;
  copy_tile<kSlots>(tile);
  encode_tile<kBits, kSlots, false>(tile, launch.first_error);
}

template <int kBits, int kSlots>
__global__ void __launch_bounds__(kRotatedThreads<kSlots>, 2)
    encode_rotated_kernel(const EncodeLaunch launch) {
  extern __shared__ uint4 shared[];
  const EncodeTile tile = tile_of_block(launch, shared);
  if (tile.exists()) encode_tile<kBits, kSlots, true>(tile, launch.first_error);
}

template <class Kernel>
Status allow_shared_bytes(Kernel kernel, size_t shared_bytes) {
  return cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          static_cast<int>(shared_bytes)),
                     "cudaFuncSetAttribute");
}

template <int kBits, int kSlots>
Status launch_slots(const EncodeLaunch& launch, cudaStream_t stream) {
  if (launch.rotated) {
    if constexpr (kBits <= 2) {
      const auto kernel = encode_rotated_kernel<kBits, kSlots>;
      const bool wide = launch.lanes_max > kTileLanes && kSlots < 64;
      const int lanes = wide ? kRotatedTileLanes : kTileLanes;
      const size_t shared_bytes = tile_shared_bytes(lanes, 4 * kSlots, true);
      VKV_TRY(allow_shared_bytes(kernel, shared_bytes));
      kernel<<<launch_grid(launch, lanes), 4 * lanes, shared_bytes, stream>>>(launch);
      return launch_status("encode_rotated_kernel");
    }
    return {Code::kUnsupported, "rotated K of more than 2 bits"};
  }
  const auto kernel = encode_codes_kernel<kBits, kSlots>;
  const size_t shared_bytes = tile_shared_bytes(kTileLanes, 4 * kSlots, false);
  VKV_TRY(allow_shared_bytes(kernel, shared_bytes));
  kernel<<<launch_grid(launch, kTileLanes), 4 * kTileLanes, shared_bytes, stream>>>(launch);
  return launch_status("encode_codes_kernel");
}

template <int kBits>
Status launch_codes(const EncodeLaunch& launch, cudaStream_t stream) {
  if (launch.samples_max <= 64) return launch_slots<kBits, 16>(launch, stream);
  if (launch.samples_max <= 128) return launch_slots<kBits, 32>(launch, stream);
  return launch_slots<kBits, 64>(launch, stream);
}

}  // namespace vkv
