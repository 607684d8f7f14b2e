// amx_functions.cpp: the table of one kind of tiles; compiled once for each.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/amx_functions.h"

#include "cpu/amx_codes.h"
#include "cpu/amx_halves.h"
#include VKV_TILES

namespace vkv::VKV_ISA {

const AmxFunctions& amx_functions() {
  static constexpr AmxFunctions kFunctions = {
      .configure = [] { tile_configure(); },
      .release = [] { tile_release(); },
      .multiply_codes = &VKV_ISA::multiply_codes,
      .split_rows = &VKV_ISA::split_rows,
      .multiply_halves = &VKV_ISA::multiply_halves,
  };
  return kFunctions;
}

}  // namespace vkv::VKV_ISA
