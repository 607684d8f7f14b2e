// amx_halves.h: 16-bit tiles against fp32 rows split into bf16; see amx_functions.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/tile_functions.h"

namespace vkv::VKV_ISA {

void split_rows(const float* rows, int row_count, int row_stride, int k, int splits,
                uint16_t* split);
void multiply_halves(const HalfTile& tile, const uint16_t* split, int row_count, int splits,
                     std::byte* scratch, float* products, int product_stride);

}  // namespace vkv::VKV_ISA
