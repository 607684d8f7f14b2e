// ahead.h: asks the memory for bytes that will be read soon; see tile_functions.h.
// SPDX-License-Identifier: Apache-2.0
//
// Included only by sources that are compiled once per instruction set; see lanes.h.
#pragma once

#include "cpu/tile_functions.h"

namespace vkv::VKV_ISA {

inline void step(Ahead* ahead) {
  if (ahead == nullptr) return;
  constexpr int kLineBytes = 64, kSecondCache = 2;
  for (int i = 0; i < ahead->step_lines && ahead->next < ahead->end; ++i, ahead->next += kLineBytes)
    __builtin_prefetch(ahead->next, /*write=*/0, kSecondCache);
}

}  // namespace vkv::VKV_ISA
