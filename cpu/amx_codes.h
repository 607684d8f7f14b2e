// amx_codes.h: codes against planes of bytes, in tiles; see amx_functions.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/tile_functions.h"

namespace vkv::VKV_ISA {

void multiply_codes(const CodeTile& tile, const ByteRows& rows, uint8_t* scratch, int32_t* products,
                    int product_stride);

}  // namespace vkv::VKV_ISA
