// gguf_blocks.h: how a GGUF file stores tensor values: runs of values packed into blocks.
// SPDX-License-Identifier: Apache-2.0
//
//   F32, F16, BF16  one value a block
//   Q8_0   32 values: fp16 d, int8 q[32]              x = d * q
//   Q4_1   32 values: fp16 d, fp16 m, uint8 q[16]     x = d * q + m; value i < 16 is the low nibble
//                                                     of byte i, value 16 + i its high nibble
//
// All little-endian. Source: ggml's block_q8_0 and block_q4_1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace vkv {

// The file's own numbers.
enum class GgufType : uint32_t { kF32 = 0, kF16 = 1, kQ4_1 = 3, kQ8_0 = 8, kBf16 = 30 };

struct GgufBlock {
  GgufType type{};
  const char* name = "";
  uint32_t values = 0;  // of a block; a row of a tensor is whole blocks
  uint32_t bytes = 0;
};

// nullptr for a type that is not read.
const GgufBlock* find_gguf_block(uint32_t type);

// "Q6_K", or "14" for a number without a name here.
std::string gguf_type_name(uint32_t type);

// "F32 F16 Q4_1 Q8_0 BF16"
std::string gguf_types_read();

// `data` is target.size() / block.values blocks at any address.
void decode_gguf_blocks(const GgufBlock& block, std::span<const std::byte> data,
                        std::span<float> target);

}  // namespace vkv
