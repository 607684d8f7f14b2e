// encode_tile.cuh: a tile of lanes of K or V, from memory into registers, and its codes out again.
// SPDX-License-Identifier: Apache-2.0
//
// A block of threads has blockDim.x / 4 lanes, four threads each (register_lane.cuh), eight lanes a
// warp. Values come through shared memory in one of these forms, all with rows padded so that the
// reads below meet no bank twice:
//
//   halves [samples][lanes + 8]   lanes are channels, read by ldmatrix.trans
//   halves [lanes][samples + 8]   lanes are tokens, read by ldmatrix
//   floats [samples][lanes + 4]   rotated K
//
// and codes leave through bytes [lanes][samples + 8].
#pragma once

#include "kernels/async_copy.cuh"
#include "kernels/register_lane.cuh"

namespace vkv {

inline constexpr int kTileLanes = 64;          // 256 threads
inline constexpr int kRotatedTileLanes = 128;  // a row is rotated once: as many as it has, or 128

struct EncodeTile {
  const EncodePart& part;
  int kv_head;
  int lane_begin;
  int lanes;     // blockDim.x / 4
  void* shared;  // tile_shared_bytes()

  __device__ bool exists() const { return kv_head < part.kv_heads && lane_begin < part.lanes(); }

  __device__ int lane() const { return threadIdx.x / 4; }  // in the tile
};

VKV_HD constexpr size_t tile_shared_bytes(int lanes, int samples, bool rotated) {
  if (rotated) return size_t{4} * samples * (lanes + 4);
  const size_t channels_are_lanes = size_t{2} * samples * (lanes + 8);
  const size_t tokens_are_lanes = size_t{2} * lanes * (samples + 8);
  return channels_are_lanes > tokens_are_lanes ? channels_are_lanes : tokens_are_lanes;
}

// 16 bytes without a detour through registers; zeros where `exists` is false.
__device__ inline void copy_16_bytes(void* target, const void* source, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)),
               "l"(source), "r"(exists ? 16 : 0)
               : "memory");
}

__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

template <bool kTransposed>
__device__ inline void load_matrices(uint32_t (&pairs)[4], const void* row) {
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// kRows tokens as rows of kColumns channels, zeros where there are none. Does not wait for them. A
// thread always copies the same channels: what a row costs is one product and one copy.
template <int kColumns, int kRows>
__device__ inline void copy_tokens(const EncodeTile& tile, int row_begin, int channel_begin) {
  constexpr int kChunks = kColumns / 8, kRowsAtOnce = 4 * kTileLanes / kChunks;
  const EncodePart& part = tile.part;
  const int first = threadIdx.x / kChunks, column = threadIdx.x % kChunks * 8;
  const int channel = channel_begin + column;
  const int row_count = channel < part.head_dim ? part.row_count - row_begin : 0;
  const uint32_t stride = static_cast<uint32_t>(part.kv_heads) * part.head_dim;
  const uint32_t* rows = part.rows == nullptr ? nullptr : part.rows + row_begin;
  const uint32_t first_row = part.first_row + static_cast<uint32_t>(row_begin);
  const uint16_t* source = part.source + tile.kv_head * part.head_dim + channel;
  uint16_t* target = static_cast<uint16_t*>(tile.shared) + first * (kColumns + 8) + column;
#pragma unroll
  for (int i = 0; i < kRows; i += kRowsAtOnce) {
    const int index = i + first;
    const bool exists = index < row_count;
    uint32_t row = first_row + static_cast<uint32_t>(index);
    if (rows != nullptr && exists) row = rows[index];
    const uint16_t* values = source + static_cast<uint64_t>(row) * stride;
    copy_16_bytes(target + i * (kColumns + 8), exists ? values : part.source, exists);
  }
}

// Brings a tile that is not rotated into its shared memory.
template <int kSlots>
__device__ inline void copy_tile(const EncodeTile& tile) {
  if (tile.part.lanes_are_tokens)
    copy_tokens<4 * kSlots, kTileLanes>(tile, tile.lane_begin, 0);
  else
    copy_tokens<kTileLanes, 4 * kSlots>(tile, 0, tile.lane_begin);
  wait_for_copies();
  __syncthreads();
}

// x[8 * i + 2 * j + e] of 32 samples is value e of matrix j.
template <bool kTransposed, bool kBfloat, int kSlots>
__device__ inline void read_halves(const EncodeTile& tile, const uint16_t* halves, float mean,
                                   float (&x)[kSlots]) {
  const int thread = threadIdx.x % 32, warp_lane = threadIdx.x / 32 * 8;
  const int stride = kTransposed ? tile.lanes + 8 : 4 * kSlots + 8;
  const uint16_t* row = kTransposed ? halves + thread * stride + warp_lane
                                    : halves + (warp_lane + thread % 8) * stride + thread / 8 * 8;
#pragma unroll
  for (int i = 0; i < kSlots / 8; ++i) {
    uint32_t pairs[4];
    load_matrices<kTransposed>(pairs, row + i * 32 * (kTransposed ? stride : 1));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 values = floats_from_pair(pairs[j], kBfloat);
      x[8 * i + 2 * j] = values.x - mean;
      x[8 * i + 2 * j + 1] = values.y - mean;
    }
  }
}

// One branch a tile instead of one a pair.
template <bool kTransposed, int kSlots>
__device__ inline void read_halves(const EncodeTile& tile, float mean, float (&x)[kSlots]) {
  const uint16_t* halves = static_cast<const uint16_t*>(tile.shared);
  if (tile.part.bfloat)
    read_halves<kTransposed, true, kSlots>(tile, halves, mean, x);
  else
    read_halves<kTransposed, false, kSlots>(tile, halves, mean, x);
}

// Rotates whole rows and keeps the tile's channels of them.
template <int kSlots>
__device__ inline void read_rotated(const EncodeTile& tile, float* floats, float (&x)[kSlots]) {
  const EncodePart& part = tile.part;
  const int threads_a_row = part.head_dim / 8, stride = tile.lanes + 4;
  const int rows_at_once = blockDim.x / threads_a_row;
  const int channel = threadIdx.x % threads_a_row * 8;
  const int row_in_turn = threadIdx.x / threads_a_row;
  for (int turn = 0; turn < 4 * kSlots; turn += rows_at_once) {
    const int row = turn + row_in_turn;
    float values[8] = {};
    if (row < part.row_count) load_eight(part, tile.kv_head, row, channel, values);
    rotate_eight(values, part.head_dim);
    const int column = channel - tile.lane_begin;
    if (row >= 4 * kSlots || column < 0 || column >= tile.lanes) continue;
    float4* target = reinterpret_cast<float4*>(floats + row * stride + column);
    target[0] = {values[0], values[1], values[2], values[3]};
    target[1] = {values[4], values[5], values[6], values[7]};
  }
  __syncthreads();

  const bool exists = tile.lane_begin + tile.lane() < part.head_dim;
  const float* column = floats + threadIdx.x % 4 * 2 * stride + tile.lane();
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot)
    x[slot] = exists ? column[(8 * (slot / 2) + slot % 2) * stride] : 0.0f;
}

// The thread's samples of its lane. Samples that do not exist are as the first. A tile that is not
// rotated has been copied.
template <int kSlots, bool kFull, bool kRotated>
__device__ inline RegisterLane<kSlots, kFull> load_lane(const EncodeTile& tile) {
  const EncodePart& part = tile.part;
  RegisterLane<kSlots, kFull> lane;
  lane.sample_count = part.samples();
  lane.quarter = threadIdx.x % 4;
  if constexpr (kRotated) {
    read_rotated<kSlots>(tile, static_cast<float*>(tile.shared), lane.x);
  } else if (part.lanes_are_tokens) {
    read_halves<false, kSlots>(tile, 0.0f, lane.x);
  } else {
    const int channel = tile.lane_begin + tile.lane();
    const bool centred = part.mean != nullptr && channel < part.head_dim;
    const float mean = centred ? part.mean[tile.kv_head * part.head_dim + channel] : 0.0f;
    read_halves<true, kSlots>(tile, mean, lane.x);
  }
  if constexpr (!kFull) {
    const float first = __shfl_sync(kAllLanes, lane.x[0], 0, 4);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot)
      if (!lane.has(slot)) lane.x[slot] = first;
  }
  return lane;
}

// Four rows of four bytes, transposed.
__device__ inline uint4 transpose_bytes(const uint4& rows) {
  const uint32_t low01 = __byte_perm(rows.x, rows.y, 0x5140);   // x0 y0 x1 y1
  const uint32_t high01 = __byte_perm(rows.x, rows.y, 0x7362);  // x2 y2 x3 y3
  const uint32_t low23 = __byte_perm(rows.z, rows.w, 0x5140);
  const uint32_t high23 = __byte_perm(rows.z, rows.w, 0x7362);
  return {__byte_perm(low01, low23, 0x5410), __byte_perm(low01, low23, 0x7632),
          __byte_perm(high01, high23, 0x5410), __byte_perm(high01, high23, 0x7632)};
}

// The part's packed matrix [rows, columns] and where the tile lies in it: lanes are its columns, or
// its rows.
template <int kBits>
struct TilePacking {
  static constexpr int kPlanes = 8 / kBits;
  static constexpr int kRowTiles = kBits == 1 ? 2 : 1;
  static constexpr int kGroupRows = 16 * kRowTiles;
  static constexpr int kWords = 4 * kRowTiles / kPlanes;  // as in code_position()
  static constexpr int kQuads = kWords * 8;               // uint4s of a row group and column tile

  // Of I1, bytes hold what planes one thread has (store_signs()): its samples 8, 16 and 24 on.
  template <bool kLanesAreColumns>
  __device__ static constexpr bool is_packed(int reg) {
    return kBits == 1 && (kLanesAreColumns ? reg % 2 != 0 || reg / 4 != 0 : reg / 2 % 2 != 0);
  }

  // Four words of rows 4 * h .. 4 * h + 3 and columns 4 * t .. 4 * t + 3, in all planes of word
  // w. `codes`: of the group's and column tile's first lane and sample; lanes are `stride` apart.
  template <bool kLanesAreColumns>
  __device__ static uint4 words(const uint8_t* codes, int stride, int w, int t, int h) {
    uint32_t words[4] = {};
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const int reg = w * kPlanes + plane;
      if (kBits == 1 && is_packed<kLanesAreColumns>(plane)) continue;
      const int row = reg / 4 * 16 + reg % 2 * 8 + 4 * h, column = reg / 2 % 2 * 16 + 4 * t;
      const uint8_t* quad =
          kLanesAreColumns ? codes + column * stride + row : codes + row * stride + column;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        words[i] |= *reinterpret_cast<const uint32_t*>(quad + i * stride) << (kBits * plane);
    }
    const uint4 result = {words[0], words[1], words[2], words[3]};
    return kLanesAreColumns ? transpose_bytes(result) : result;
  }
};

// codes: [tile.lanes][4 * kSlots + 8], zero where there is no lane or sample.
template <int kBits, int kSlots, bool kLanesAreColumns>
__device__ inline void store_packed(const EncodeTile& tile, const uint8_t* codes) {
  using Packing = TilePacking<kBits>;
  constexpr int kStride = 4 * kSlots + 8;
  const EncodePart& part = tile.part;
  const int samples = round_up(part.samples(), 32);
  const int lanes = min(tile.lanes, part.lanes() - tile.lane_begin);
  const int column_tiles = (kLanesAreColumns ? part.lanes() : samples) / 32;
  const int column_tile_begin = kLanesAreColumns ? tile.lane_begin / 32 : 0;
  const int group_begin = kLanesAreColumns ? 0 : tile.lane_begin / Packing::kGroupRows;
  // Of the tile; of column tiles a power of two, of which the last ones may not exist.
  const int columns = kLanesAreColumns ? lanes : samples, rows = kLanesAreColumns ? samples : lanes;
  const int column_tiles_here = kLanesAreColumns ? tile.lanes / 32 : kSlots / 8;
  const int shift = __ffs(column_tiles_here) - 1;

  uint4* target = reinterpret_cast<uint4*>(part.payload + size_t{part.head_payload} * tile.kv_head);
  const int quad_count = (rows / Packing::kGroupRows << shift) * Packing::kQuads;
  for (int i = threadIdx.x; i < quad_count; i += blockDim.x) {
    const int quad = i % Packing::kQuads, unit = i / Packing::kQuads;
    const int h = quad % 2, t = quad / 2 % 4, w = quad / 8;
    const int group = unit >> shift, column_tile = unit & (column_tiles_here - 1);
    if (column_tile * 32 >= columns) continue;
    const int lane = kLanesAreColumns ? column_tile * 32 : group * Packing::kGroupRows;
    const int sample = kLanesAreColumns ? group * Packing::kGroupRows : column_tile * 32;
    const int tile_index = (group_begin + group) * column_tiles + column_tile_begin + column_tile;
    target[tile_index * Packing::kQuads + quad] = Packing::template words<kLanesAreColumns>(
        codes + lane * kStride + sample, kStride, w, t, h);
  }
}

}  // namespace vkv
