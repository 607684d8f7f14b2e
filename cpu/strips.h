// strips.h: the encoder's loops for one instruction set; see strip_functions.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/strip_functions.h"

namespace vkv::VKV_ISA {

bool gather_channels(const HalfRows& rows, int strip_begin, int strip_end, float* values);
bool gather_tokens(const HalfRows& rows, int strip_begin, int strip_end, float* values);
bool copy_halves(const HalfRows& rows, int padded_rows, int padded_channels, bool transposed,
                 uint16_t* target);
void strip_mean(const float* values, int sample_count, float* mean);
StripHeader strip_header(int bits, float spread, const float* values, int sample_count);
void strip_codes(int bits, const StripHeader& header, const float* values, int sample_count,
                 int padded_samples, uint8_t* codes);
void pack_lane_columns(int bits, const uint8_t* codes, int lanes, int samples, uint32_t* words);
void pack_lane_rows(int bits, const uint8_t* codes, int lanes, int samples, uint32_t* words);

}  // namespace vkv::VKV_ISA
