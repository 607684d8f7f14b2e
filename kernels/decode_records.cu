// decode_records.cu: records and open tokens -> fp16 rows of K less the mean, and of V.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_fp16.h>

#include <algorithm>

#include "kernels/cuda_handles.h"
#include "kernels/half_range.cuh"
#include "kernels/prefill_work.h"
#include "runtime/base/block_format.h"
#include "runtime/base/codec.h"
#include "runtime/base/hadamard.h"

namespace vkv {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kPlaceThreads = 1024;
constexpr int kBatch = 4;              // loads of a thread at once: all, of I4 at 128 channels
constexpr int kRow = kHeadDimMax + 4;  // halves of a row in shared memory: 8 rows, 8 banks apart

// ---- Where the live tokens of each unit begin.

__device__ int live_count(const BlockView& block) {
  if (block.live == nullptr) return block.token_count;
  int count = 0;
  for (int word = 0; word * 32 < block.token_count; ++word) count += __popc(block.live[word]);
  return count;
}

// One thread block: sums of warps, then of those before.
__global__ void __launch_bounds__(kPlaceThreads)
    place_kernel(const PrefillUnit* units, int unit_count, int* unit_begin, uint32_t* magnitude) {
  __shared__ int warp_sums[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int before = 0;  // tokens of the units of earlier rounds
  for (int first = 0; first < unit_count; first += kPlaceThreads) {
    const int unit = first + threadIdx.x;
    const int own = unit < unit_count ? live_count(units[unit].block) : 0;
    int sum = own;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int total = before;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) sum += warp_sums[w];
      total += warp_sums[w];
    }
    if (unit < unit_count) unit_begin[unit] = before + sum - own;
    before = total;
    __syncthreads();
  }
  if (threadIdx.x == 0) unit_begin[unit_count] = before;
  if (threadIdx.x < 2) magnitude[threadIdx.x] = 0;
}

// ---- Codes.

struct CodeRange {  // in 32s
  int row_begin, row_end, column_begin, column_end;
};

// Calls store(row, column, quad) for all codes of a range of a packed matrix: the four bytes of
// quad are the codes of four columns from `column` on. block_format.h has the order.
template <int kBits, class Store>
__device__ void for_each_quad(const uint32_t* __restrict__ matrix, int columns,
                              const CodeRange& range, const Store& store) {
  constexpr int kPlanes = 8 / kBits;
  constexpr int kRowTiles = kBits == 1 ? 2 : 1;
  constexpr int kWords = 4 * kRowTiles / kPlanes;
  constexpr int kGroupRows = 16 * kRowTiles;
  constexpr uint32_t kMask = 0x01010101u * ((1u << kBits) - 1);
  const int across = (range.column_end - range.column_begin) / 32;
  const int count = (range.row_end - range.row_begin) / kGroupRows * across * kWords * 32;
  for (int first = threadIdx.x; first < count; first += kBatch * kThreads) {
    // 1. Words on their way together.
    uint32_t words[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = first + j * kThreads, tile = i / (32 * kWords);
      const int group = range.row_begin / kGroupRows + tile / across;
      const int column_tile = range.column_begin / 32 + tile % across;
      const int tile_words = (group * (columns / 32) + column_tile) * kWords * 32;
      if (i < count) words[j] = matrix[tile_words + i % (32 * kWords)];
    }
    // 2. Their codes.
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = first + j * kThreads, tile = i / (32 * kWords);
      if (i >= count) break;
      const int g = i % 8, t = i / 8 % 4, w = i / 32 % kWords;
      const int row = range.row_begin + tile / across * kGroupRows + g;
      const int column = range.column_begin + tile % across * 32 + t * 4;
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        const int reg = w * kPlanes + p;
        store(row + reg / 4 * 16 + reg % 2 * 8, column + reg / 2 % 2 * 16,
              words[j] >> (kBits * p) & kMask);
      }
    }
  }
}

template <class Store>
__device__ void for_each_quad(Codec codec, const uint32_t* matrix, int columns,
                              const CodeRange& range, const Store& store) {
  switch (codec) {
    case Codec::kI8:
      return for_each_quad<8>(matrix, columns, range, store);
    case Codec::kI4:
      return for_each_quad<4>(matrix, columns, range, store);
    case Codec::kI2:
      return for_each_quad<2>(matrix, columns, range, store);
    default:
      return for_each_quad<1>(matrix, columns, range, store);
  }
}

// ---- A thread block has 32 tokens of a unit and a KV head, as K or as V.

struct Part {
  const PrefillPiece& piece;
  const PrefillUnit& unit;
  BlockLayout layout;  // of a block
  int kv_head;
  int first_token;  // of the unit
  float factor;     // a power of two

  __device__ int channels() const { return padded_channels(piece.shape.head_dim); }
  __device__ const __half* header() const {
    return reinterpret_cast<const __half*>(unit.block.headers + layout.header_of(kv_head));
  }
  __device__ float mean(int channel) const {
    const int head_dim = piece.shape.head_dim;
    return piece.k_mean != nullptr && channel < head_dim
               ? piece.k_mean[kv_head * head_dim + channel]
               : 0.0f;
  }
};

struct Tile {
  __half values[32][kRow];
  // A channel each, or of V a token each: the header's, or what they become in fp32.
  __half half_scale[kHeadDimMax], half_zero[kHeadDimMax];
  float scale[kHeadDimMax], zero[kHeadDimMax];
};

// Codes are small integers and the header is fp16, so a fused multiplication and addition at fp16
// rounds as fp32 would. Where the header must be shifted or divided first, that is done at fp32.
enum class Arithmetic { kHalf, kFloat };

__device__ __half2 clamped(__half2 x) {
  const __half2 most = __float2half2_rn(kHalfMax);
  return __hmin2(__hmax2(x, __hneg2(most)), most);
}

// Four codes. Their scales are those from `at` on; kStep 0: all that one.
template <int kStep>
__device__ uint2 decode_quad(const Tile& tile, Arithmetic arithmetic, int at, uint32_t quad) {
  alignas(8) __half2 pair[2];
  if (arithmetic == Arithmetic::kHalf) {
    const __half2 offset = __float2half2_rn(1024.0f);  // 0x6400: codes are its last places
    const uint32_t halves[2] = {__byte_perm(quad, 0x64646464u, 0x4140),
                                __byte_perm(quad, 0x64646464u, 0x4342)};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const __half2 code = __hsub2(reinterpret_cast<const __half2&>(halves[i]), offset);
      const int first = at + 2 * i * kStep;  // even, where kStep is 1
      const auto two = [&](const __half* values) {
        return kStep == 0 ? __half2half2(values[first])
                          : *reinterpret_cast<const __half2*>(&values[first]);
      };
      pair[i] = __hfma2(code, two(tile.half_scale), two(tile.half_zero));
    }
  } else {
    float value[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float code = static_cast<float>(quad >> (8 * i) & 0xff);
      value[i] = fmaf(tile.scale[at + i * kStep], code, tile.zero[at + i * kStep]);
    }
    pair[0] = __floats2half2_rn(value[0], value[1]);
    pair[1] = __floats2half2_rn(value[2], value[3]);
  }
  pair[0] = clamped(pair[0]);
  pair[1] = clamped(pair[1]);
  return *reinterpret_cast<const uint2*>(pair);
}

// 16-bit K and V of open tokens, and K of blocks: rows of tokens.
__device__ void read_rows(const Part& part, const uint16_t* rows, size_t stride, Codec codec,
                          bool is_k, Tile& tile) {
  const int head_dim = part.piece.shape.head_dim;
  const int quads = head_dim / 4;  // of a token
  const int count = min(32, part.unit.block.token_count - part.first_token) * quads;
  for (int first = threadIdx.x; first < count; first += kBatch * kThreads) {
    uint2 four[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = first + j * kThreads;
      const auto token = static_cast<size_t>(part.first_token + i / quads);
      if (i < count)
        four[j] = *reinterpret_cast<const uint2*>(rows + token * stride + i % quads * 4);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = first + j * kThreads, token = i / quads, channel = i % quads * 4;
      if (i >= count) break;
      const uint32_t pairs[2] = {four[j].x, four[j].y};
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float value =
            float_from_16_bit(codec, static_cast<uint16_t>(pairs[c / 2] >> (16 * (c % 2))));
        tile.values[token][channel + c] =
            finite_half((is_k ? value - part.mean(channel + c) : value) * part.factor);
      }
    }
  }
}

// 16-bit V of blocks: rows of channels. A thread takes two tokens.
__device__ void read_columns(const Part& part, const uint16_t* v, Tile& tile) {
  const int count = part.channels() * 16;
  for (int first = threadIdx.x; first < count; first += kBatch * kThreads) {
    uint32_t two[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = first + j * kThreads;
      const size_t row = static_cast<size_t>(i / 16) * part.layout.tokens;
      if (i < count)
        two[j] = *reinterpret_cast<const uint32_t*>(v + row + part.first_token + i % 16 * 2);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = first + j * kThreads;
      if (i >= count) break;
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const float value =
            float_from_16_bit(part.unit.block.v_codec, static_cast<uint16_t>(two[j] >> (16 * t)));
        tile.values[i % 16 * 2 + t][i / 16] = finite_half(part.factor * value);
      }
    }
  }
}

// The scales of a tile, and how to compute with them. shifted: less the mean.
__device__ Arithmetic read_scales(const Part& part, const __half* scales, const __half* zeros,
                                  int count, bool shifted, Tile& tile) {
  const bool as_stored = !shifted && part.factor == 1.0f;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    tile.half_scale[i] = scales[i];
    tile.half_zero[i] = zeros[i];
    if (as_stored) continue;
    tile.scale[i] = part.factor * __half2float(scales[i]);
    tile.zero[i] = part.factor * (__half2float(zeros[i]) - (shifted ? part.mean(i) : 0.0f));
  }
  __syncthreads();
  return as_stored ? Arithmetic::kHalf : Arithmetic::kFloat;
}

__device__ void read_k_codes(const Part& part, const uint32_t* codes, Tile& tile) {
  const int channels = part.channels();
  const __half* const header = part.header();
  const bool shifted = !part.unit.block.centred && part.piece.k_mean != nullptr;
  const Arithmetic arithmetic =
      read_scales(part, header, header + channels, channels, shifted, tile);
  const CodeRange range = {part.first_token, part.first_token + 32, 0, channels};
  for_each_quad(part.unit.block.k_codec, codes, channels, range,
                [&](int row, int column, uint32_t quad) {
                  *reinterpret_cast<uint2*>(&tile.values[row - part.first_token][column]) =
                      decode_quad<1>(tile, arithmetic, column, quad);
                });
}

__device__ void read_v_codes(const Part& part, const uint32_t* codes, Tile& tile) {
  const bool per_token = part.unit.block.v_per_token;
  const int first = per_token ? part.first_token : 0;
  const __half* const scales = part.header() + 2 * part.channels() + first;
  const Arithmetic arithmetic = read_scales(part, scales, scales + part.layout.v_scales,
                                            per_token ? 32 : part.channels(), false, tile);
  const CodeRange range = {0, part.channels(), part.first_token, part.first_token + 32};
  for_each_quad(part.unit.block.v_codec, codes, part.layout.tokens, range,
                [&](int row, int column, uint32_t quad) {
                  const int token = column - part.first_token;
                  const uint2 four = per_token ? decode_quad<1>(tile, arithmetic, token, quad)
                                               : decode_quad<0>(tile, arithmetic, row, quad);
                  const uint32_t pairs[2] = {four.x, four.y};
#pragma unroll
                  for (int i = 0; i < 4; ++i)
                    tile.values[token + i][row] =
                        __ushort_as_half(static_cast<uint16_t>(pairs[i / 2] >> (16 * (i % 2))));
                });
}

// hadamard.h, by a warp: lane l has channels l, l + 32, ...
__device__ void rotate_back(__half* row, int head_dim) {
  const int lane = threadIdx.x % 32;
  float x[kHeadDimMax / 32];
#pragma unroll
  for (int j = 0; j < kHeadDimMax / 32; ++j)
    x[j] = j * 32 + lane < head_dim ? __half2float(row[j * 32 + lane]) : 0.0f;
  for (int h = 1; h < 32 && h < head_dim; h *= 2)
#pragma unroll
    for (int j = 0; j < kHeadDimMax / 32; ++j) {
      const float other = __shfl_xor_sync(~0u, x[j], h);
      x[j] = (lane & h) != 0 ? other - x[j] : x[j] + other;
    }
#pragma unroll
  for (int step = 1; step < kHeadDimMax / 32; step *= 2) {
    if (32 * step >= head_dim) break;
#pragma unroll
    for (int j = 0; j < kHeadDimMax / 32; ++j) {
      if ((j & step) != 0) continue;
      const float a = x[j], b = x[j + step];
      x[j] = a + b;
      x[j + step] = a - b;
    }
  }
#pragma unroll
  for (int j = 0; j < kHeadDimMax / 32; ++j)
    if (j * 32 + lane < head_dim) row[j * 32 + lane] = finite_half(x[j] * hadamard_scale(head_dim));
}

// Rows of live tokens to where they belong; a warp takes a row at a time.
__device__ void write_rows(const Part& part, int begin, bool rotated, Tile& tile,
                           uint16_t* __restrict__ target) {
  const int head_dim = part.piece.shape.head_dim, lane = threadIdx.x % 32;
  const BlockView& block = part.unit.block;
  const int rest = min(32, block.token_count - part.first_token);
  uint32_t live = rest == 32 ? ~0u : (1u << rest) - 1;
  if (block.live != nullptr) {
    for (int word = 0; word < part.first_token / 32; ++word) begin += __popc(block.live[word]);
    live &= block.live[part.first_token / 32];
  } else {
    begin += part.first_token;
  }
  for (int token = threadIdx.x / 32; token < 32; token += kWarps) {
    if ((live >> token & 1) == 0) continue;
    if (rotated) {
      rotate_back(tile.values[token], head_dim);
      __syncwarp();
    }
    const size_t row = static_cast<size_t>(part.kv_head) * part.piece.token_count_max +
                       static_cast<size_t>(begin + __popc(live & ((1u << token) - 1)));
    for (int channel = lane * 4; channel < head_dim; channel += 128)
      *reinterpret_cast<uint2*>(target + row * head_dim + channel) =
          *reinterpret_cast<const uint2*>(&tile.values[token][channel]);
  }
}

__global__ void __launch_bounds__(kThreads)
    decode_kernel(const __grid_constant__ PrefillPiece piece, int parts_of_unit) {
  __shared__ Tile tile;
  const PrefillUnit& unit = piece.units[blockIdx.x / parts_of_unit];
  const int first_token = static_cast<int>(blockIdx.x) % parts_of_unit * 32;
  if (first_token >= unit.block.token_count) return;
  const bool is_k = blockIdx.z == 0;
  const Codec codec = is_k ? unit.block.k_codec : unit.block.v_codec;
  const Part part = {.piece = piece,
                     .unit = unit,
                     .layout = block_layout(piece.shape, unit.block),
                     .kv_head = static_cast<int>(blockIdx.y),
                     .first_token = first_token,
                     .factor = 1.0f / excess(piece.magnitude[blockIdx.z])};
  if (unit.open_k != nullptr) {
    const size_t stride = static_cast<size_t>(piece.shape.kv_heads) * piece.shape.head_dim;
    const uint16_t* const rows = is_k ? unit.open_k : unit.open_v;
    read_rows(part, rows + part.kv_head * piece.shape.head_dim, stride, codec, is_k, tile);
  } else {
    const std::byte* const payload = unit.block.payload + (is_k ? part.layout.k_of(part.kv_head)
                                                                : part.layout.v_of(part.kv_head));
    const auto* const halves = reinterpret_cast<const uint16_t*>(payload);
    const auto* const codes = reinterpret_cast<const uint32_t*>(payload);
    if (is_16_bit(codec))
      is_k ? read_rows(part, halves, part.channels(), codec, is_k, tile)
           : read_columns(part, halves, tile);
    else
      is_k ? read_k_codes(part, codes, tile) : read_v_codes(part, codes, tile);
  }
  __syncthreads();
  write_rows(part, piece.unit_begin[blockIdx.x / parts_of_unit], is_k && unit.block.k_rotated, tile,
             is_k ? piece.k : piece.v);
}

// ---- How large bf16 is.

// A thread block has a unit and a KV head.
__global__ void __launch_bounds__(kThreads)
    magnitude_kernel(const __grid_constant__ PrefillPiece piece) {
  const PrefillUnit& unit = piece.units[blockIdx.x];
  const BlockView& block = unit.block;
  const int kv_head = blockIdx.y, head_dim = piece.shape.head_dim;
  const BlockLayout layout = block_layout(piece.shape, block);
  const bool is_open = unit.open_k != nullptr;
  const size_t open_stride = static_cast<size_t>(piece.shape.kv_heads) * head_dim;
  for (const bool is_k : {true, false}) {
    if ((is_k ? block.k_codec : block.v_codec) != Codec::kBf16) continue;
    const auto* const rows = reinterpret_cast<const uint16_t*>(
        block.payload + (is_k ? layout.k_of(kv_head) : layout.v_of(kv_head)));
    const uint16_t* const open = (is_k ? unit.open_k : unit.open_v) + kv_head * head_dim;
    float most = 0.0f;
    for (int i = threadIdx.x; i < block.token_count * head_dim; i += kThreads) {
      // V of blocks has its tokens beside each other, all else its channels.
      const bool by_channel = !is_open && !is_k;
      const int token = by_channel ? i % block.token_count : i / head_dim;
      const int channel = by_channel ? i / block.token_count : i % head_dim;
      if (block.live != nullptr && (block.live[token / 32] >> token % 32 & 1) == 0) continue;
      const uint16_t bits = is_open      ? open[token * open_stride + channel]
                            : by_channel ? rows[channel * layout.tokens + token]
                                         : rows[token * layout.channels + channel];
      float value = float_from_bfloat(bits);
      if (is_k && piece.k_mean != nullptr) value -= piece.k_mean[kv_head * head_dim + channel];
      most = fmaxf(most, fabsf(value));
    }
    for (int step = 1; step < 32; step *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
    // Of what is not negative the bits are in the order of the values.
    if (threadIdx.x % 32 == 0 && most > kHalfMax / 2)
      atomicMax(&piece.magnitude[is_k ? 0 : 1], __float_as_uint(most));
  }
}

}  // namespace

Status launch_decode_records(const PrefillPiece& piece, cudaStream_t stream) {
  place_kernel<<<1, kPlaceThreads, 0, stream>>>(piece.units, piece.unit_count, piece.unit_begin,
                                                piece.magnitude);
  VKV_TRY(launch_status("place"));
  const dim3 heads(piece.unit_count, piece.shape.kv_heads);
  if (piece.any_bf16) {
    magnitude_kernel<<<heads, kThreads, 0, stream>>>(piece);
    VKV_TRY(launch_status("magnitude"));
  }
  const int parts = tokens_per_block(piece.shape.head_dim) / 32;
  const dim3 grid(piece.unit_count * parts, piece.shape.kv_heads, 2);
  decode_kernel<<<grid, kThreads, 0, stream>>>(piece, parts);
  return launch_status("decode records");
}

}  // namespace vkv
