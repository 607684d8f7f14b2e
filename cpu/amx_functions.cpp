// amx_functions.cpp: the table of one kind of tiles; compiled once for each.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/amx_functions.h"

#include "cpu/amx_codes.h"
#include "cpu/amx_halves.h"
#include VKV_TILES

namespace vkv::VKV_ISA {
namespace {

void configure(int rows) {
  TileConfig config;
  for (int tile = 0; tile < kRowTiles; ++tile) config.rows[tile] = static_cast<uint8_t>(rows);
  tile_configure(config);
}

}  // namespace

const AmxFunctions& amx_functions() {
  static constexpr AmxFunctions kFunctions = {
      .configure = &VKV_ISA::configure,
      .release = [] { tile_release(); },
      .multiply_codes = &VKV_ISA::multiply_codes,
      .split_rows = &VKV_ISA::split_rows,
      .multiply_halves = &VKV_ISA::multiply_halves,
  };
  return kFunctions;
}

}  // namespace vkv::VKV_ISA
