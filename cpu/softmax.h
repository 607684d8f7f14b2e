// softmax.h: the weights of one tile, for one instruction set; see tile_functions.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cpu/tile_functions.h"

namespace vkv::VKV_ISA {

void softmax_floats(const TileWeights& weights);
void softmax_planes(const TileWeights& weights);

}  // namespace vkv::VKV_ISA
