// channel_statistics.h: scale and zero of channels, by the rules of runtime/base/codec.h.
// SPDX-License-Identifier: Apache-2.0
//
// Works on strips of channels: wide enough for the compiler to fill vector registers, narrow enough
// for a block's strip to stay in the first-level cache during the 15 passes of the search.
#pragma once

#include <cstdint>

#include "vkv/types.h"

namespace vkv {

inline constexpr int kStripChannels = 16;

// fp16 bits, as they stand in a record's header.
struct StripHeader {
  uint16_t scale[kStripChannels];
  uint16_t zero[kStripChannels];
};

// values: [row_count, kStripChannels], finite; codec: not 16 bit; row_count >= 1.
// A scale or zero that does not fit fp16 comes out as infinity.
StripHeader strip_header(Codec codec, const float* values, int row_count);

// mean: [kStripChannels].
void strip_mean(const float* values, int row_count, float* mean);

// codes: [row_count, kStripChannels]. The header need not be that of these values.
void strip_codes(Codec codec, const StripHeader& header, const float* values, int row_count,
                 uint8_t* codes);

}  // namespace vkv
