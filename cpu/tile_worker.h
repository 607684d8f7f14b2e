// tile_worker.h: what one thread needs to attend tile by tile with an engine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>

#include "cpu/attend_tiles.h"
#include "cpu/brgemm.h"
#include "cpu/contest.h"
#include "cpu/tile_attention.h"

namespace vkv {

// The loops for this CPU, as far as ONEDNN_MAX_CPU_ISA lets oneDNN see it, so that one machine
// tests several.
bool use_avx512(const MatrixUnit& unit);
const TileFunctions& tile_functions_for(const MatrixUnit& unit);

// Products of the first of these engines or, where there are two, of both: see cpu/contest.h.
// can_run() has said yes to all. Borrows the cache of kernels.
std::unique_ptr<TileProducts> make_products(std::span<const TileEngine> engines,
                                            const MatrixUnit& unit, BrgemmCache& kernels);

// Whether the engine multiplies codes of 8 bits exactly, as all do those of fewer.
bool exact_8_bit(TileEngine engine, const MatrixUnit& unit);

// Of the contenders, which are the same for the whole process.
ContestTable& contest_table();

// Not thread-safe. Borrows as make_products().
struct TileWorker {
  TileWorker(std::span<const TileEngine> engines, const MatrixUnit& unit, BrgemmCache& kernels);

  std::unique_ptr<TileProducts> products;
  TileAttention attention;
};

}  // namespace vkv
