// strip_functions.h: the loops of the encoder: a plain set, and one per instruction set.
// SPDX-License-Identifier: Apache-2.0
//
// K or V of one KV head of a block is a matrix of samples x lanes: a lane has one scale and one
// zero point, found from its samples. Lanes are channels and samples tokens, or the other way round
// for V per token. Sixteen adjacent lanes are a strip:
//
//   values   fp32 [strips, sample_count, kStripLanes]
//   codes    bytes [strips, padded samples, kStripLanes]
//
// narrow enough for the samples of a strip to stay in the first-level cache during the passes of
// the search. All sets give the same bits, those of runtime/base/codec.h. The sources of the fast
// ones are compiled once per instruction set, in a namespace each, and include nothing that could
// leave an inline function for the linker to share between them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vkv {

inline constexpr int kStripLanes = 16;

// Rows of 16-bit values of one KV head: row i begins at values + rows[i] * row_stride.
struct HalfRows {
  const uint16_t* values;
  size_t row_stride;     // values
  const uint32_t* rows;  // [row_count]
  int row_count;
  int channel_count;  // in 8s, kHeadDimMax at most
  bool bfloat;        // else fp16
  const float* mean;  // [channel_count], subtracted; nullptr: zero
  bool rotated;       // then multiplied by a Hadamard matrix (runtime/base/hadamard.h)
};

// fp16 bits, as they stand in a record's header.
struct StripHeader {
  uint16_t scale[kStripLanes];
  uint16_t zero[kStripLanes];
};

struct StripFunctions {
  // Strips [strip_begin, strip_end) of the rows' values; lanes that do not exist are 0.
  // Return whether all values are finite.
  bool (*gather_channels)(const HalfRows& rows, int strip_begin, int strip_end, float* values);
  bool (*gather_tokens)(const HalfRows& rows, int strip_begin, int strip_end, float* values);

  // 16 bit: the rows' bits as they are, and zeros up to padded_rows and padded_channels.
  // target: [padded_rows, padded_channels], or transposed. Returns whether all values are finite.
  bool (*copy_halves)(const HalfRows& rows, int padded_rows, int padded_channels, bool transposed,
                      uint16_t* target);

  // mean: [kStripLanes].
  void (*strip_mean)(const float* values, int sample_count, float* mean);

  // values: finite; bits: 8, 4, 2 or 1; spread: 1 at 8 bits; sample_count >= 1. A scale or zero
  // that does not fit fp16 comes out as not finite.
  StripHeader (*strip_header)(int bits, float spread, const float* values, int sample_count);

  // Codes of padded_samples samples: from sample_count on 0. The header need not be of these
  // values.
  void (*strip_codes)(int bits, const StripHeader& header, const float* values, int sample_count,
                      int padded_samples, uint8_t* codes);

  // All words of a packed matrix (runtime/base/block_format.h), whose columns are the lanes, or
  // whose rows are. Lanes and samples in 32s.
  void (*pack_lane_columns)(int bits, const uint8_t* codes, int lanes, int samples,
                            uint32_t* words);
  void (*pack_lane_rows)(int bits, const uint8_t* codes, int lanes, int samples, uint32_t* words);
};

// Straight from codec.h and block_format.h: the oracle of the others.
const StripFunctions& plain_strip_functions();

// Each set may be used only where the CPU has the instructions.
namespace avx2 {  // and FMA, F16C
const StripFunctions& strip_functions();
}
namespace avx512 {  // F, BW, DQ, VL
const StripFunctions& strip_functions();
}

}  // namespace vkv
