// gguf_blocks.cpp: how a GGUF file stores tensor values: runs of values packed into blocks.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/gguf_blocks.h"

#include <fmt/format.h>

#include <cstring>
#include <string_view>
#include <vector>

#include "runtime/base/codec.h"
#include "vkv/status.h"

namespace vkv {
namespace {

constexpr GgufBlock kBlocks[] = {
    {GgufType::kF32, "F32", 1, 4},     {GgufType::kF16, "F16", 1, 2},
    {GgufType::kQ4_1, "Q4_1", 32, 20}, {GgufType::kQ8_0, "Q8_0", 32, 34},
    {GgufType::kBf16, "BF16", 1, 2},
};

// Types that files often have and that are not read: only for messages.
constexpr struct {
  uint32_t type;
  const char* name;
} kOthers[] = {{2, "Q4_0"},    {6, "Q5_0"},    {7, "Q5_1"},  {9, "Q8_1"},  {10, "Q2_K"},
               {11, "Q3_K"},   {12, "Q4_K"},   {13, "Q5_K"}, {14, "Q6_K"}, {15, "Q8_K"},
               {20, "IQ4_NL"}, {23, "IQ4_XS"}, {24, "I8"},   {25, "I16"},  {26, "I32"},
               {27, "I64"},    {28, "F64"}};

uint16_t load_u16(const std::byte* source) {
  uint16_t bits = 0;
  std::memcpy(&bits, source, sizeof bits);
  return bits;
}

void decode_q8_0(const std::byte* source, float* target) {
  const float d = float_from_half(load_u16(source));
  for (int i = 0; i < 32; ++i)
    target[i] = d * static_cast<float>(static_cast<int8_t>(source[2 + i]));
}

void decode_q4_1(const std::byte* source, float* target) {
  const float d = float_from_half(load_u16(source));
  const float m = float_from_half(load_u16(source + 2));
  for (int i = 0; i < 16; ++i) {
    const auto byte = static_cast<uint8_t>(source[4 + i]);
    target[i] = d * static_cast<float>(byte & 15) + m;
    target[16 + i] = d * static_cast<float>(byte >> 4) + m;
  }
}

}  // namespace

const GgufBlock* find_gguf_block(uint32_t type) {
  for (const GgufBlock& block : kBlocks)
    if (static_cast<uint32_t>(block.type) == type) return &block;
  return nullptr;
}

std::string gguf_type_name(uint32_t type) {
  if (const GgufBlock* const block = find_gguf_block(type)) return block->name;
  for (const auto& other : kOthers)
    if (other.type == type) return other.name;
  return std::to_string(type);
}

std::string gguf_types_read() {
  std::vector<std::string_view> names;
  for (const GgufBlock& block : kBlocks) names.emplace_back(block.name);
  return fmt::format("{}", fmt::join(names, " "));
}

void decode_gguf_blocks(const GgufBlock& block, std::span<const std::byte> data,
                        std::span<float> target) {
  const size_t block_count = target.size() / block.values;
  VKV_CHECK(block_count * block.values == target.size() &&
            block_count * block.bytes == data.size());
  const std::byte* source = data.data();
  float* values = target.data();
  for (size_t i = 0; i < block_count; ++i, source += block.bytes, values += block.values) {
    switch (block.type) {
      case GgufType::kF32:
        std::memcpy(values, source, sizeof(float));
        break;
      case GgufType::kF16:
        *values = float_from_half(load_u16(source));
        break;
      case GgufType::kBf16:
        *values = float_from_bfloat(load_u16(source));
        break;
      case GgufType::kQ8_0:
        decode_q8_0(source, values);
        break;
      case GgufType::kQ4_1:
        decode_q4_1(source, values);
        break;
    }
  }
}

}  // namespace vkv
