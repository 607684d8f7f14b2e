// types.h: ids, roles, tiers, codecs and shapes that every call speaks of.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "vkv/status.h"
#include "vkv/version.h"

// Lets arithmetic be shared with device code. The only such macro.
#if defined(__CUDACC__)
#define VKV_HD __host__ __device__
#else
#define VKV_HD
#endif

namespace vkv {

enum class SequenceId : uint64_t {};

// What a token is. The precision policy decides by it how many bits the token gets.
enum class Role : uint8_t {
  kText = 0,     // words of the prompt and of the answer
  kVisual = 1,   // patches of images and video frames
  kControl = 2,  // BOS, separators, vision start and end
  kSink = 3,     // draws attention whatever its content; usually detected, not given
};
inline constexpr int kRoleCount = 4;

// Where a block's record lies. The same bytes in every tier.
enum class Tier : uint8_t { kHbm = 0, kDram = 1, kNvme = 2 };
inline constexpr int kTierCount = 3;

// How values are stored. The numbers stand in stored records: append only.
enum class Codec : uint8_t { kF16 = 0, kBf16 = 1, kI8 = 2, kI4 = 3, kI2 = 4, kI1 = 5 };
inline constexpr int kCodecCount = 6;

// The element type of the caller's q, k, v and out tensors.
enum class ElementType : uint8_t { kF32 = 0, kF16 = 1, kBf16 = 2 };

// One attention geometry for all layers of a model.
struct KvShape {
  int layers = 0;
  int q_heads = 0;
  int kv_heads = 0;  // q_heads is a multiple of it
  int head_dim = 0;  // channels of a head: a multiple of 8, 8..256

  int group() const { return q_heads / kv_heads; }  // query heads that share a KV head
  bool operator==(const KvShape&) const = default;
};

// Errors: kInvalidArgument, naming the field and what it may be.
VKV_API Status validate(const KvShape& shape);

VKV_API std::string_view name(Role role);
VKV_API std::string_view name(Tier tier);
VKV_API std::string_view name(Codec codec);

// Bits of one stored value, without metadata: 16, 8, 4, 2 or 1.
VKV_HD constexpr int bits_of(Codec codec) {
  switch (codec) {
    case Codec::kI8:
      return 8;
    case Codec::kI4:
      return 4;
    case Codec::kI2:
      return 2;
    case Codec::kI1:
      return 1;
    default:
      return 16;
  }
}

VKV_HD constexpr bool is_16_bit(Codec codec) { return bits_of(codec) == 16; }

// The codec that holds a 16-bit element as it is.
constexpr Codec codec_of(ElementType type) {
  return type == ElementType::kBf16 ? Codec::kBf16 : Codec::kF16;
}

constexpr size_t bytes_of(ElementType type) { return type == ElementType::kF32 ? 4 : 2; }

}  // namespace vkv
