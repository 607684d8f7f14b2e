// record_stream.cuh: the bytes of blocks on their way from memory to one warp.
// SPDX-License-Identifier: Apache-2.0
//
// A warp reads its units one after another: header, K, V of one KV head. Bytes come by asynchronous
// copies in pieces, kPiecesAhead of them in use or on the way at any time, across units, whether
// they lie in HBM or in mapped host memory. A piece holds what lies in the record, in whole groups
// of rows:
//
//   codes          32 rows of the packed matrix, or 16 where that is more than a piece
//   16 bit         8 rows
//
// Open tokens come in pieces of the same sizes: K as in a record; V, whose rows are tokens, as
// [tokens][8 channels]. Header and first piece arrive together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/async_copy.cuh"
#include "kernels/attend_work.h"
#include "runtime/base/block_format.h"

namespace vkv {

// What shared memory has room for.
template <int kChannels>
inline constexpr int kPiecesAhead = kChannels > 128 ? 2 : 3;
inline constexpr int kHeaderSlots = 2;  // a unit has two pieces or more

// Room for 8 rows of 16 bits.
template <int kChannels>
inline constexpr uint32_t kPieceBytes =
    (kChannels > unit_tokens(kChannels) ? kChannels : unit_tokens(kChannels)) > 128 ? 4096 : 2048;

// Rows of codes that are taken together, of a matrix with so many columns.
template <int kChannels>
__host__ __device__ constexpr uint32_t group_rows(int bits, uint32_t columns) {
  return columns * bits * 4 <= kPieceBytes<kChannels> ? 32 : 16;
}

// Bytes of all pieces of a matrix but the last: as many groups as fit.
template <int kChannels>
__host__ __device__ constexpr uint32_t piece_bytes(int bits, uint32_t columns) {
  if ((columns & (columns - 1)) == 0) return kPieceBytes<kChannels>;
  return bits == 16 ? 16 * columns : group_rows<kChannels>(bits, columns) * columns * bits / 8;
}

// One KV head of a block, or of a run of open tokens.
struct Unit {
  const std::byte* header;  // nullptr: none
  const std::byte* k;       // of a block, V lies behind it
  const std::byte* open_v;
  const uint32_t* live;  // nullptr: all tokens count
  uint32_t k_bytes;
  uint32_t bytes;    // of K and V
  uint16_t k_piece;  // bytes of their pieces but the last
  uint16_t v_piece;
  uint16_t header_bytes;
  uint16_t tokens;  // rounded up to 32
  int first_open;   // open token that it begins with; -1: a block
  uint16_t token_count;
  Codec k_codec;
  Codec v_codec;
  bool centred;
  bool k_rotated;
  bool v_per_token;

  template <int kChannels>
  __device__ void set_sizes() {
    const int k_bits = bits_of(k_codec), v_bits = bits_of(v_codec);
    tokens = static_cast<uint16_t>(padded_tokens(token_count));
    k_bytes = uint32_t{tokens} * kChannels / 8 * k_bits;
    bytes = k_bytes + uint32_t{tokens} * kChannels / 8 * v_bits;
    k_piece = static_cast<uint16_t>(piece_bytes<kChannels>(k_bits, kChannels));
    v_piece = static_cast<uint16_t>(piece_bytes<kChannels>(v_bits, tokens));
  }
};

// Rows of open tokens: bytes from one to the next, and of those the head's own.
struct OpenRows {
  uint32_t stride_bytes;
  uint32_t valid_bytes;
};

template <int kChannels>
__device__ inline Unit unit_of(const AttendSource& source, int kv_head, int index) {
  Unit unit = {};
  if (index < source.block_count) {
    const BlockView block = source.blocks[index];
    unit.token_count = static_cast<uint16_t>(block.token_count);
    unit.k_codec = block.k_codec;
    unit.v_codec = block.v_codec;
    unit.centred = block.centred;
    unit.k_rotated = block.k_rotated;
    unit.v_per_token = block.v_per_token;
    unit.live = block.live;
    unit.first_open = -1;
    unit.set_sizes<kChannels>();
    unit.k = block.payload + static_cast<size_t>(unit.bytes) * kv_head;
    if (!is_16_bit(block.k_codec) || !is_16_bit(block.v_codec)) {
      unit.header_bytes =
          static_cast<uint16_t>(4 * (kChannels + (block.v_per_token ? unit.tokens : kChannels)));
      unit.header = block.headers + static_cast<size_t>(unit.header_bytes) * kv_head;
    }
    return unit;
  }
  unit.first_open = (index - source.block_count) * kOpenUnitTokens;
  unit.token_count =
      static_cast<uint16_t>(min(kOpenUnitTokens, source.open_count - unit.first_open));
  unit.k_codec = unit.v_codec = source.open_codec;
  unit.set_sizes<kChannels>();
  const size_t first = (static_cast<size_t>(unit.first_open) * source.kv_heads + kv_head) *
                       static_cast<size_t>(source.head_dim);
  unit.k = reinterpret_cast<const std::byte*>(source.open_k + first);
  unit.open_v = reinterpret_cast<const std::byte*>(source.open_v + first);
  return unit;
}

// Shared memory of one warp's stream: its places, and what is loaded next. The latter lies here
// because loading is called from many places, out of line.
template <int kChannels>
struct StreamShared {
  static constexpr int kHeaderBytes =
      4 * (kChannels + (kChannels > unit_tokens(kChannels) ? kChannels : unit_tokens(kChannels)));

  // The copy engine asks memory for whole lines of 128 bytes only where its target has them too.
  alignas(128) std::byte pieces[kPiecesAhead<kChannels>][kPieceBytes<kChannels>];
  alignas(16) std::byte headers[kHeaderSlots][kHeaderBytes];
  alignas(8) uint64_t arrived[kPiecesAhead<kChannels>];
  int end;
  struct alignas(16) Next {
    int unit;       // whose pieces are issued; units are unit, unit + kWarps, ... below end
    uint32_t at;    // bytes of its K and V that were issued
    uint32_t slot;  // to be filled
    uint32_t header_slot;
  } next;
};

// A piece of open tokens, from byte `at` of K or V as a record would have it.
template <int kChannels>
__device__ inline void copy_open_piece(const Unit& unit, const OpenRows& rows, bool is_k,
                                       uint32_t at, uint32_t byte_count, std::byte* target) {
  const std::byte* base = is_k ? unit.k : unit.open_v;
  constexpr uint32_t tokens = kOpenUnitTokens;
  for (uint32_t inside = threadIdx.x % 32 * 16; inside < byte_count; inside += 512) {
    const uint32_t chunk = (at + inside) / 16;
    const uint32_t token = is_k ? chunk / (kChannels / 8) : chunk % tokens;
    const uint32_t column = 16 * (is_k ? chunk % (kChannels / 8) : chunk / tokens);
    const bool exists = token < unit.token_count && column < rows.valid_bytes;
    const std::byte* from = base + static_cast<size_t>(token) * rows.stride_bytes + column;
    __pipeline_memcpy_async(target + inside, exists ? from : base, 16, exists ? 0 : 16);
  }
}

// Issues the next piece, if there is one, into the place that is free longest. By a whole warp.
// Places knows kWarps and where the warp's StreamShared and the units lie, so that they are read as
// shared memory and not through generic pointers.
template <class Places>
__device__ __noinline__ void issue_piece() {
  constexpr int kChannels = Places::kChannels;
  StreamShared<kChannels>& shared = Places::stream();
  using Next = typename StreamShared<kChannels>::Next;
  __syncwarp();
  const Next next = shared.next;
  if (next.unit >= shared.end) return;
  const Unit& unit = Places::unit(next.unit);
  const bool first_lane = threadIdx.x % 32 == 0, open = unit.first_open >= 0;
  __syncwarp();  // all lanes know what is next
  if (kBulkCopies && !open && !first_lane) return;

  const bool is_k = next.at < unit.k_bytes;
  const uint32_t bytes = min(uint32_t{is_k ? unit.k_piece : unit.v_piece},
                             (is_k ? unit.k_bytes : unit.bytes) - next.at);
  const uint32_t header_bytes = next.at == 0 ? unit.header_bytes : 0;
  uint64_t* arrived = shared.arrived + next.slot;
  std::byte* target = shared.pieces[next.slot];
  std::byte* header = shared.headers[next.header_slot];
  if (kBulkCopies && !open) {
    arrive_with_bytes(arrived, bytes + header_bytes);
    copy_bulk(target, unit.k + next.at, bytes, arrived);
    if (header_bytes > 0) copy_bulk(header, unit.header, header_bytes, arrived);
  } else {
    if (open) {
      copy_open_piece<kChannels>(unit, Places::open_rows(), is_k,
                                 is_k ? next.at : next.at - unit.k_bytes, bytes, target);
    } else {
      copy_by_lanes(header, unit.header, header_bytes);
      copy_by_lanes(target, unit.k + next.at, bytes);
    }
    tie_lane_copies(arrived);
    __syncwarp();
    if (first_lane) arrive(arrived);
  }
  if (!first_lane) return;
  const bool last = next.at + bytes == unit.bytes;
  shared.next = Next{.unit = next.unit + (last ? Places::kWarps : 0),
                     .at = last ? 0 : next.at + bytes,
                     .slot = next.slot + 1 == kPiecesAhead<kChannels> ? 0 : next.slot + 1,
                     .header_slot = next.header_slot ^ (next.at == 0 ? 1u : 0u)};
}

template <class Places>
class RecordStream {
 public:
  static constexpr int kPlaces = kPiecesAhead<Places::kChannels>;

  // The warp's units are `first`, first + kWarps, ... below `end`. Starts loading.
  __device__ RecordStream(int first, int end) {
    StreamShared<Places::kChannels>& shared = Places::stream();
    if (threadIdx.x % 32 == 0) {
      init_arrivals(shared.arrived, kPlaces);
      shared.end = end;
      shared.next = {.unit = first};
    }
    for (int i = 0; i < kPlaces - 1; ++i) issue_piece<Places>();
  }

  // The header of the unit whose K begins; valid until its V has ended.
  __device__ const std::byte* next_header() {
    const std::byte* header = Places::stream().headers[header_];
    header_ ^= 1;
    return header;
  }

  // A matrix begins, with pieces of so many bytes.
  __device__ void begin(uint32_t piece_byte_count) {
    acquire();
    limit_ = piece_byte_count;
  }

  // Its next so many bytes, of whole rows or tiles of one group; valid until the next call.
  __device__ const std::byte* next(uint32_t byte_count) {
    return next(byte_count, offset_ == limit_);
  }
  // The same where it is known whether a piece has ended.
  __device__ const std::byte* next(uint32_t byte_count, bool ended) {
    if (ended) acquire();
    const std::byte* bytes = Places::stream().pieces[slot_] + offset_;
    offset_ += byte_count;
    return bytes;
  }

 private:
  // What was taken before is not needed any more: its place is filled again.
  __device__ void acquire() {
    issue_piece<Places>();
    if (++slot_ == kPlaces) slot_ = 0, parity_ ^= 1;
    wait_arrival(Places::stream().arrived + slot_, parity_);
    offset_ = 0;
  }

  int header_ = 0;
  int slot_ = kPlaces - 1;
  uint32_t parity_ = 1;
  uint32_t offset_ = 0, limit_ = 0;
};

}  // namespace vkv
