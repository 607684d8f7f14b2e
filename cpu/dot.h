// dot.h: rows against 16-bit tiles as they are stored, for one instruction set; see
// tile_functions.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/tile_functions.h"

namespace vkv::VKV_ISA {

void dot_halves(const HalfTile& tile, const float* rows, int row_count, int row_stride,
                float* products, int product_stride);

void sum_halves(const HalfTile& tile, const float* rows, int row_count, int row_stride,
                float* products, int product_stride);

}  // namespace vkv::VKV_ISA
