// vnni_functions.h: products of packed codes in VPDPBUSD, unpacked in registers.
// SPDX-License-Identifier: Apache-2.0
//
// The source behind this header is compiled with AVX-512, VNNI and GFNI, and includes nothing that
// could leave an inline function for the linker to share.
#pragma once

#include <cstdint>

#include "cpu/tile_functions.h"

namespace vkv::vnni {

// As TileProducts::multiply_codes(), for any number of rows.
void multiply_codes(const CodeTile& tile, const ByteRows& rows, int32_t* products,
                    int product_stride);

}  // namespace vkv::vnni
