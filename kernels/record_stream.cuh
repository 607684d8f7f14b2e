// record_stream.cuh: the bytes of blocks on their way from memory to one warp.
// SPDX-License-Identifier: Apache-2.0
//
// A warp reads its units one after another: header, K, V of one KV head. Bytes come by asynchronous
// copies of 16 bytes a lane in pieces of 2 KiB, kPiecesAhead of them on the way at any time, across
// units, whether they lie in HBM or in mapped host memory. What is in a piece are tiles of 32
// columns and 16 rows (32 at 1 bit), in the order of the packed matrix: row by row of tiles.
//
//   codes          as they lie in the record
//   16 bit         row-major, [16][32]; V of open tokens, whose rows are tokens: [32][16]
#pragma once

#include <cuda_pipeline.h>

#include <cstddef>
#include <cstdint>

#include "kernels/attend_work.h"
#include "runtime/base/block_format.h"

namespace vkv {

inline constexpr int kPieceBytes = 2048;
inline constexpr int kPiecesAhead = 3;
inline constexpr int kHeaderSlots = 3;  // pieces ahead may hold headers of two more units
inline constexpr int kHalfTileBytes = 1024;

// One KV head of a block, or of a run of open tokens.
struct Unit {
  const std::byte* header;  // nullptr: none
  const std::byte* k;
  const std::byte* v;    // of a block, behind K
  const uint32_t* live;  // nullptr: all tokens count
  uint32_t k_bytes;      // of all tiles
  uint32_t v_bytes;
  uint32_t row_bytes;  // of open tokens, from one to the next
  int first_open;      // open token that it begins with; -1: a block
  uint16_t row_valid;  // bytes of this head in a row; open tokens alone
  uint16_t header_bytes;
  uint16_t token_count;
  uint16_t tokens;  // rounded up to 32
  Codec k_codec;
  Codec v_codec;
  bool centred;
  bool k_rotated;
  bool v_per_token;
};

template <int kChannels>
__device__ inline Unit unit_of(const AttendSource& source, int kv_head, int index) {
  Unit unit = {};
  if (index < source.block_count) {
    const BlockView block = source.blocks[index];
    unit.token_count = static_cast<uint16_t>(block.token_count);
    unit.tokens = static_cast<uint16_t>(padded_tokens(block.token_count));
    unit.k_codec = block.k_codec;
    unit.v_codec = block.v_codec;
    unit.centred = block.centred;
    unit.k_rotated = block.k_rotated;
    unit.v_per_token = block.v_per_token;
    unit.live = block.live;
    unit.first_open = -1;
    const uint32_t values = static_cast<uint32_t>(unit.tokens) * kChannels;
    unit.k_bytes = values * bits_of(block.k_codec) / 8;
    unit.v_bytes = values * bits_of(block.v_codec) / 8;
    unit.k = block.payload + static_cast<size_t>(unit.k_bytes + unit.v_bytes) * kv_head;
    unit.v = unit.k + unit.k_bytes;
    if (!is_16_bit(block.k_codec) || !is_16_bit(block.v_codec)) {
      unit.header_bytes =
          static_cast<uint16_t>(4 * (kChannels + (block.v_per_token ? unit.tokens : kChannels)));
      unit.header = block.headers + static_cast<size_t>(unit.header_bytes) * kv_head;
    }
    return unit;
  }
  unit.first_open = (index - source.block_count) * unit_tokens(kChannels);
  const int count = min(unit_tokens(kChannels), source.open_count - unit.first_open);
  unit.token_count = static_cast<uint16_t>(count);
  unit.tokens = static_cast<uint16_t>(padded_tokens(count));
  unit.k_codec = unit.v_codec = source.open_codec;
  unit.k_bytes = unit.v_bytes = static_cast<uint32_t>(unit.tokens) * kChannels * 2;
  unit.row_valid = static_cast<uint16_t>(source.head_dim * 2);
  unit.row_bytes = static_cast<uint32_t>(unit.row_valid) * source.kv_heads;
  const size_t first = static_cast<size_t>(unit.first_open) * unit.row_bytes +
                       static_cast<size_t>(kv_head) * unit.row_valid;
  unit.k = reinterpret_cast<const std::byte*>(source.open_k) + first;
  unit.v = reinterpret_cast<const std::byte*>(source.open_v) + first;
  return unit;
}

// Shared memory of one warp's stream: its places, and what is loaded next. The latter lies here
// because loading is called from many places, out of line.
template <int kChannels>
struct StreamShared {
  static constexpr int kHeaderBytes =
      4 * (kChannels + (kChannels > unit_tokens(kChannels) ? kChannels : unit_tokens(kChannels)));

  alignas(16) std::byte pieces[kPiecesAhead][kPieceBytes];
  alignas(16) std::byte headers[kHeaderSlots][kHeaderBytes];
  int unit;  // whose pieces are issued; units are unit, unit + kAttendWarps, ... below end
  int end;
  int piece;        // of the unit: 0 is the header
  int header_slot;  // next to be filled
  int piece_slot;
};

// Two 16-bit tiles; `first` is the first one's number.
template <int kChannels>
__device__ inline void copy_half_tiles(const Unit& unit, bool is_k, uint32_t first,
                                       std::byte* target) {
  const uint32_t lane = threadIdx.x % 32;
  const std::byte* base = is_k ? unit.k : unit.v;
  const uint32_t columns = is_k ? kChannels : unit.tokens;
  // Nearly all divisors are constants.
  uint32_t row_tile = first / (kChannels / 32);
  if (!is_k)
    row_tile = columns == unit_tokens(kChannels) ? first / (unit_tokens(kChannels) / 32)
                                                 : first / (columns / 32);
  uint32_t column_tile = first - row_tile * (columns / 32);
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    std::byte* to = target + tile * kHalfTileBytes + lane * 16;
    if (unit.first_open < 0) {
      const uint32_t row = row_tile * 16 + lane / 4;
      const std::byte* from = base + row * columns * 2 + column_tile * 64 + lane % 4 * 16;
      __pipeline_memcpy_async(to, from, 16);
      __pipeline_memcpy_async(to + 512, from + 8 * columns * 2, 16);
    } else {  // rows are tokens, of K and of V
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t inside = lane * 16 + half * 512;
        const uint32_t token = is_k ? row_tile * 16 + inside / 64 : column_tile * 32 + inside / 32;
        const uint32_t column = is_k ? column_tile * 64 + inside % 64 : row_tile * 32 + inside % 32;
        const bool exists = token < unit.token_count && column < unit.row_valid;
        const std::byte* from = base + static_cast<size_t>(token) * unit.row_bytes + column;
        __pipeline_memcpy_async(to + half * 512, exists ? from : base, 16, exists ? 0 : 16);
      }
    }
    if (++column_tile == columns / 32) {
      column_tile = 0;
      ++row_tile;
    }
  }
}

// Issues the next piece, if there is one; always one group of copies. By a whole warp.
// Places knows where the warp's StreamShared and the units lie, so that they are read as shared
// memory and not through generic pointers.
template <class Places>
__device__ __noinline__ void issue_piece() {
  constexpr int kChannels = Places::kChannels;
  StreamShared<kChannels>& shared = Places::stream();
  const uint32_t lane = threadIdx.x % 32;
  __syncwarp();
  if (shared.unit < shared.end) {
    const Unit& unit = Places::unit(shared.unit);
    const int piece = shared.piece;
    const uint32_t bytes = unit.k_bytes + unit.v_bytes;
    if (piece == 0) {
      std::byte* target = shared.headers[shared.header_slot];
      for (uint32_t at = lane * 16; at < unit.header_bytes; at += 512)
        __pipeline_memcpy_async(target + at, unit.header + at, 16);
    } else {
      std::byte* target = shared.pieces[shared.piece_slot];
      const uint32_t first = (piece - 1) * kPieceBytes;
      const bool is_k = first < unit.k_bytes;
      if (is_16_bit(is_k ? unit.k_codec : unit.v_codec)) {
        copy_half_tiles<kChannels>(unit, is_k, (first - (is_k ? 0 : unit.k_bytes)) / kHalfTileBytes,
                                   target);
      } else {  // as it lies there
        const std::byte* from = unit.k + first + lane * 16;
        target += lane * 16;
        if (first + kPieceBytes <= bytes) {
#pragma unroll
          for (int at = 0; at < kPieceBytes; at += 512)
            __pipeline_memcpy_async(target + at, from + at, 16);
        } else {
          for (uint32_t at = 0; first + at + lane * 16 < bytes; at += 512)
            __pipeline_memcpy_async(target + at, from + at, 16);
        }
      }
    }
    __syncwarp();
    if (lane == 0) {
      if (piece == 0)
        shared.header_slot = shared.header_slot + 1 == kHeaderSlots ? 0 : shared.header_slot + 1;
      else
        shared.piece_slot = shared.piece_slot + 1 == kPiecesAhead ? 0 : shared.piece_slot + 1;
      const bool last = static_cast<uint32_t>(piece) * kPieceBytes >= bytes;
      shared.piece = last ? 0 : piece + 1;
      if (last) shared.unit += kAttendWarps;
    }
  }
  __pipeline_commit();
}

template <class Places>
class RecordStream {
 public:
  // Units of this warp, of so many in shared memory. Starts loading.
  __device__ explicit RecordStream(int unit_count) {
    StreamShared<Places::kChannels>& shared = Places::stream();
    if (threadIdx.x % 32 == 0) {
      shared.unit = threadIdx.x / 32;
      shared.end = unit_count;
      shared.piece = shared.header_slot = shared.piece_slot = 0;
    }
    for (int i = 0; i < kPiecesAhead - 1; ++i) issue_piece<Places>();
  }

  // The header of the next unit; valid until the second call from now on.
  __device__ const std::byte* next_header() {
    acquire();
    offset_ = kPieceBytes;  // the next tile begins a piece
    const std::byte* header = Places::stream().headers[header_];
    header_ = header_ + 1 == kHeaderSlots ? 0 : header_ + 1;
    return header;
  }

  // The next so many bytes of tiles, all of one piece; valid until the next call.
  __device__ const std::byte* next_tiles(int byte_count) {
    if (offset_ == kPieceBytes) {
      acquire();
      slot_ = slot_ + 1 == kPiecesAhead ? 0 : slot_ + 1;
      offset_ = 0;
    }
    const std::byte* tiles = Places::stream().pieces[slot_] + offset_;
    offset_ += byte_count;
    return tiles;
  }

  __device__ void finish() { __pipeline_wait_prior(0); }

 private:
  // What was taken before is not needed any more: its place is filled again.
  __device__ void acquire() {
    issue_piece<Places>();
    __pipeline_wait_prior(kPiecesAhead - 1);
    __syncwarp();
  }

  int header_ = 0;
  int slot_ = kPiecesAhead - 1, offset_ = kPieceBytes;
};

}  // namespace vkv
