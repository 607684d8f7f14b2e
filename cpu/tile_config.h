// tile_config.h: the shapes of a thread's tiles, as LDTILECFG reads them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace vkv::VKV_ISA {

// Intel SDM volume 1, section 18.2: palette 1 has 8 tiles of up to 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

}  // namespace vkv::VKV_ISA
