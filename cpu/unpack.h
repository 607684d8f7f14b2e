// unpack.h: stored tiles -> panels, for one instruction set; see tile_functions.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/tile_functions.h"

namespace vkv::VKV_ISA {

void floats_from_halves(const uint16_t* halves, int count, float* values);
void unpack_bytes(const CodeTile& tile, uint8_t* panels);
void unpack_floats(const CodeTile& tile, float* panels);
void transpose_halves(const HalfTile& tile, float* panels);
void convert_halves(const HalfTile& tile, float* panels);

}  // namespace vkv::VKV_ISA
