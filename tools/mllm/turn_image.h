// turn_image.h: turning a picture by quarter turns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <utility>

#include "tools/mllm/image.h"

namespace vkv {

// Clockwise; 0 <= quarter_turns <= 3.
inline Image turn_image(Image image, int quarter_turns) {
  if (quarter_turns == 0) return image;
  const bool swapped = quarter_turns % 2 == 1;
  Image turned{swapped ? image.height : image.width, swapped ? image.width : image.height, {}};
  turned.rgb.reserve(image.rgb.size());
  for (int y = 0; y < turned.height; ++y) {
    for (int x = 0; x < turned.width; ++x) {
      // Where the pixel that ends at (x, y) comes from.
      int source_x = image.width - 1 - x, source_y = image.height - 1 - y;
      if (quarter_turns == 1) source_x = y, source_y = image.height - 1 - x;
      if (quarter_turns == 3) source_x = image.width - 1 - y, source_y = x;
      const size_t pixel = static_cast<size_t>(source_y) * static_cast<size_t>(image.width) +
                           static_cast<size_t>(source_x);
      turned.rgb.insert(turned.rgb.end(), &image.rgb[pixel * 3], &image.rgb[pixel * 3] + 3);
    }
  }
  return turned;
}

}  // namespace vkv
