// join.h: scales of a header, and a tile's share in the running softmax, for one instruction set;
// see tile_functions.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/tile_functions.h"

namespace vkv::VKV_ISA {

void load_key_scales(const uint16_t* halves, int channels, float bias, float* scale, double* zero);
void load_value_scales(const uint16_t* halves, int channels, float bias, float* scale, float* zero,
                       float* byte_zero);
void widen_row(const float* values, int count, double* wide);
void divide_row(const float* values, int count, float divisor, float* target);
void join_tile(const TileWeights& weights, const double* beta, float factor,
               const RunningSums& running);

}  // namespace vkv::VKV_ISA
