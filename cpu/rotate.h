// rotate.h: Hadamard rotation of rows, for one instruction set; see tile_functions.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vkv::VKV_ISA {

// hadamard() of runtime/base/hadamard.h, bit for bit, over the first head_dim of each row of
// `channels`; head_dim is a power of two, 8..256.
void rotate_rows(float* values, int rows, int channels, int head_dim);

}  // namespace vkv::VKV_ISA
