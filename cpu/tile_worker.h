// tile_worker.h: what one thread needs to attend tile by tile with an engine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "cpu/attend_tiles.h"
#include "cpu/brgemm.h"
#include "cpu/tile_attention.h"

namespace vkv {

// The loops for this CPU, as far as ONEDNN_MAX_CPU_ISA lets oneDNN see it, so that one machine
// tests several.
bool use_avx512(const MatrixUnit& unit);
const TileFunctions& tile_functions_for(const MatrixUnit& unit);

// Not thread-safe. Borrows the cache of kernels. can_run() has said yes.
struct TileWorker {
  TileWorker(TileEngine engine, const MatrixUnit& unit, BrgemmCache& kernels);

  std::unique_ptr<TileProducts> products;
  TileAttention attention;
};

}  // namespace vkv
