// resize.h: antialiased scaling of pictures, bit for bit as the Hugging Face processors do it.
// SPDX-License-Identifier: Apache-2.0
//
// transformers 5 resizes with torchvision, whose kernel for uint8 is Pillow's algorithm (two
// passes, horizontal first, rounded to 8 bits in between) with weights of 16 instead of 32 bits.
// The results here equal torchvision's, and Pillow's to within one grey level.
#pragma once

#include "tools/mllm/image.h"

namespace vkv {

enum class Resample { kBilinear, kBicubic };  // bicubic with a = -0.5

// `image` must have pixels; width and height must be at least 1.
Image resize(const Image& image, int width, int height, Resample resample);

}  // namespace vkv
