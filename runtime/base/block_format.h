// block_format.h: the bytes of a record, format version 1.
// SPDX-License-Identifier: Apache-2.0
//
// A block is up to tokens_per_block() tokens of one layer and one precision class, all KV heads, K
// and V. A record is its encoded form, the same bytes in every tier, little-endian, 64-byte
// aligned. C is head_dim rounded up to 32, T the number of tokens rounded up to 32; H is the number
// of KV heads, b the bits of a code. What lies past head_dim or past the last token is zero,
// everywhere.
//
//   offset                        bytes                 what
//   0                             H x header            absent if K and V are both 16 bit, or if
//   the
//                                                       blocks of a segment share their headers
//   H x header                    H x (K, V payloads)   nothing lies between or behind
//
// The header of a KV head, all fp16:
//
//   offset       bytes   what
//   0            2 C     s_k, a channel each
//   2 C          2 C     z_k
//   4 C          2 L     s_v: L = C, a channel each; V per token: L = T, a token each
//   4 C + 2 L    2 L     z_v
//
// so 8 C bytes, or 4 C + 4 T. Shared headers, [H] of them, are never per token. Where only one of K
// and V is 16 bit, its half of the header is zero. The payload of a KV head:
//
//   offset       bytes                what
//   0            2 T C, or T C b / 8  K: 16 bit: row-major [T][C]; codes: a packed matrix, rows =
//                                     tokens, columns = channels
//   behind K     2 T C, or T C b / 8  V: 16 bit: [C][T]; codes: rows = channels, columns = tokens
//
// 16 bit is fp16 or bf16 as the codec says. A code c of channel d and token t stands for
//
//   K            z_k[d] + s_k[d] c, relative to the mean key mu of the layer where the block is
//                centred
//   K rotated    the same for channel d of H (k - mu), H as in runtime/base/hadamard.h; C =
//   head_dim
//                then, or 32 for a head_dim of 8 or 16, and b is 2 or 1
//   V            z_v[d] + s_v[d] c; per token: z_v[t] + s_v[t] c
//
// Attention never decodes. With c_t the codes of a token, p_t its weight, q_r = q or H q:
//
//   score        q_r.(z_k + s_k c_t) = (q_r s_k).c_t + q_r.z_k
//   output       s_v (sum p_t c_t) + z_v (sum p_t); per token: sum (p_t s_v[t]) c_t + sum p_t
//   z_v[t]
//
// Codec, shape, token count, `centred`, `rotated`, `per token` and the mean are not in the record:
// they stand in the block table (BlockView).
//
// Packing of a matrix [rows][columns] of b-bit codes, rows and columns in 32s: see code_position().
// One 32-bit word gives, by (word >> (b * p)) & (0x01010101 * (2^b - 1)), four consecutive columns
// of one row as u8x4, for p = 0 .. 8/b - 1. Eight consecutive words are eight consecutive rows of
// the same four columns. This is an A register of mma.m16n8k32, and a row of a VNNI or AMX tile,
// without a shuffle.
//
// tests/golden_record_test.cpp has records byte by byte.
#pragma once

#include <cstddef>
#include <cstdint>

#include "vkv/types.h"

namespace vkv {

inline constexpr int kFormatVersion = 1;
inline constexpr size_t kRecordAlignment = 64;    // bytes
inline constexpr size_t kExtentAlignment = 4096;  // bytes: what O_DIRECT asks for
inline constexpr int kTokenGranule = 32;          // a short record stores whole granules
inline constexpr int kHeadDimMax = 256;

VKV_HD constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

constexpr size_t round_up_bytes(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

VKV_HD constexpr int padded_channels(int head_dim) { return round_up(head_dim, 32); }
VKV_HD constexpr int padded_tokens(int token_count) { return round_up(token_count, kTokenGranule); }

// Tokens of a full block: payloads of a KV head are then 2 KiB a bit at head_dim 64 and 128.
VKV_HD constexpr int tokens_per_block(int head_dim) { return head_dim <= 64 ? 256 : 128; }

// Where the code of (row, column) lies in a packed matrix of `columns` columns (a multiple of 32).
struct CodePosition {
  uint32_t word;  // index of the 32-bit little-endian word
  uint32_t bit;   // of its lowest bit in that word
};

VKV_HD constexpr CodePosition code_position(int bits, int columns, int row, int column) {
  const int planes = 8 / bits;               // codes of a byte
  const int row_tiles = bits == 1 ? 2 : 1;   // 16-row tiles that share words
  const int words = 4 * row_tiles / planes;  // words of a lane and 32-column tile
  const int column_tiles = columns / 32;

  const int row_group = row / (16 * row_tiles), row_tile = row / 16 % row_tiles;
  const int row_half = row % 16 / 8, g = row % 8;
  const int column_tile = column / 32, column_half = column % 32 / 16;
  const int t = column % 16 / 4, i = column % 4;

  const int reg = row_tile * 4 + column_half * 2 + row_half;
  const int w = reg / planes, p = reg % planes;
  const int word = (((row_group * column_tiles + column_tile) * words + w) * 4 + t) * 8 + g;
  return {static_cast<uint32_t>(word), static_cast<uint32_t>(8 * i + bits * p)};
}

// Byte offsets inside a record. Offsets of headers are from the first header, offsets of payloads
// from the first payload, so that both also serve where headers lie elsewhere.
struct BlockLayout {
  int kv_heads = 0;
  int channels = 0;             // C
  int tokens = 0;               // T
  size_t head_header = 0;       // bytes of one KV head's header; 0 if K and V are 16 bit
  int v_scales = 0;             // of a KV head: C, or T where V has one a token; 0 without header
  size_t k_payload = 0;         // bytes of one KV head's K
  size_t v_payload = 0;         // bytes of one KV head's V
  bool shared_headers = false;  // the record holds no headers

  constexpr size_t headers_bytes() const { return head_header * kv_heads; }
  constexpr size_t payload_bytes() const { return (k_payload + v_payload) * kv_heads; }
  constexpr size_t payload_offset() const {  // from the start of the record
    return shared_headers ? 0 : round_up_bytes(headers_bytes(), kRecordAlignment);
  }
  constexpr size_t record_bytes() const {
    return round_up_bytes(payload_offset() + payload_bytes(), kRecordAlignment);
  }
  constexpr size_t header_of(int kv_head) const { return head_header * kv_head; }
  constexpr size_t v_scales_of(int kv_head) const {  // s_v of the head, in bytes from the first
    return header_of(kv_head) + size_t{4} * static_cast<size_t>(channels);
  }
  constexpr size_t k_of(int kv_head) const { return (k_payload + v_payload) * kv_head; }
  constexpr size_t v_of(int kv_head) const { return k_of(kv_head) + k_payload; }
};

constexpr BlockLayout block_layout(int kv_heads, int head_dim, Codec k_codec, Codec v_codec,
                                   int token_count, bool shared_headers = false,
                                   bool v_per_token = false) {
  BlockLayout layout;
  layout.kv_heads = kv_heads;
  layout.channels = padded_channels(head_dim);
  layout.tokens = padded_tokens(token_count);
  const size_t values = static_cast<size_t>(layout.channels) * layout.tokens;
  if (!is_16_bit(k_codec) || !is_16_bit(v_codec)) {
    layout.v_scales = v_per_token ? layout.tokens : layout.channels;
    layout.head_header = size_t{4} * static_cast<size_t>(layout.channels + layout.v_scales);
  }
  layout.k_payload = values * bits_of(k_codec) / 8;
  layout.v_payload = values * bits_of(v_codec) / 8;
  layout.shared_headers = shared_headers;
  return layout;
}

// One encoded block as an engine reads it. Borrowed: valid while the owner keeps it in place.
struct BlockView {
  Codec k_codec = Codec::kF16;
  Codec v_codec = Codec::kF16;
  bool centred = false;                // K codes are relative to the layer's mean; never at 16 bit
  bool k_rotated = false;              // and are of H (K - mean); only where centred
  bool v_per_token = false;            // V has a scale and a zero per token
  int token_count = 0;                 // 1..tokens_per_block(head_dim)
  const std::byte* headers = nullptr;  // [kv_heads] headers; nullptr if K and V are 16 bit
  const std::byte* payload = nullptr;  // 64-byte aligned
  // [(token_count + 31) / 32]: bit t % 32 of word t / 32 is 1 where token t counts; the others get
  // weight 0, exactly. Bits from token_count on are 0. nullptr: all count. It belongs to the
  // sequence, never to the record.
  const uint32_t* live = nullptr;
};

// Of its record, or of the part of it that does not lie elsewhere: offsets are the same.
constexpr BlockLayout block_layout(const KvShape& shape, const BlockView& block) {
  return block_layout(shape.kv_heads, shape.head_dim, block.k_codec, block.v_codec,
                      block.token_count, /*shared_headers=*/false, block.v_per_token);
}

}  // namespace vkv
