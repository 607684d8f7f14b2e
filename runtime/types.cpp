// types.cpp: names and checks of the public types.
// SPDX-License-Identifier: Apache-2.0
#include "vkv/types.h"

#include <string>

#include "runtime/base/block_format.h"
#include "vkv/options.h"
#include "vkv/stats.h"

namespace vkv {
namespace {

constexpr int kCountMax = 65536;  // of layers and heads: more than any model, less than overflows

}  // namespace

Status validate(const KvShape& shape) {
  const auto wrong = [](const char* field, int value, const std::string& rule) {
    return Status(Code::kInvalidArgument,
                  std::string(field) + " is " + std::to_string(value) + "; it must be " + rule);
  };
  if (shape.layers < 1 || shape.layers > kCountMax)
    return wrong("layers", shape.layers, "1 to " + std::to_string(kCountMax));
  if (shape.kv_heads < 1) return wrong("kv_heads", shape.kv_heads, "at least 1");
  if (shape.q_heads < 1 || shape.q_heads % shape.kv_heads != 0)
    return wrong("q_heads", shape.q_heads,
                 "a positive multiple of kv_heads, " + std::to_string(shape.kv_heads));
  if (shape.q_heads > kCountMax)
    return wrong("q_heads", shape.q_heads, "at most " + std::to_string(kCountMax));
  if (shape.head_dim < 8 || shape.head_dim > kHeadDimMax || shape.head_dim % 8 != 0)
    return wrong("head_dim", shape.head_dim, "a multiple of 8 from 8 to 256");
  return {};
}

std::string_view name(Role role) {
  constexpr std::string_view kNames[] = {"text", "visual", "control", "sink"};
  return kNames[static_cast<int>(role)];
}

std::string_view name(Tier tier) {
  constexpr std::string_view kNames[] = {"hbm", "dram", "nvme"};
  return kNames[static_cast<int>(tier)];
}

std::string_view name(Codec codec) {
  constexpr std::string_view kNames[] = {"f16", "bf16", "i8", "i4", "i2", "i1"};
  return kNames[static_cast<int>(codec)];
}

std::string_view name(KeepOriginal keep) {
  constexpr std::string_view kNames[] = {"none", "dram", "nvme"};
  return kNames[static_cast<int>(keep)];
}

std::string_view name(TokenForm form) {
  constexpr std::string_view kNames[] = {"open", "high", "low", "promoted", "original"};
  return kNames[static_cast<int>(form)];
}

}  // namespace vkv
