// codec.h: the arithmetic of the stored formats, one value at a time.
// SPDX-License-Identifier: Apache-2.0
//
// Every encoder, on every engine, must come to the same bits, so nothing here leaves a choice to
// the compiler: conversions round to nearest even by integer arithmetic, and code that includes
// this file to encode is compiled without contraction to fma. Statistics are in fp32, per (KV head,
// channel) over the rows of a block; for V per token, per (KV head, token) over the head_dim
// channels, which then take the place of rows. Rotated K is rotated first (hadamard.h).
//
//   sums     32 partial sums, row r into sum r % 32 in row order; then a tree: sum j takes sum
//            j + 16, then j + 8, 4, 2, 1. A mean divides the total by the number of rows.
//   I8       range = max - min; zero = fp16(min), scale = fp16(range / 255)
//   I4, I2   the range shrunk about its centre: for r = 20/20, 19/20, 18/20, 17/20 (I4) or 20/20,
//            18/20, ... 6/20 (I2), in this order, zero = fp16(min + (1 - r) * 0.5 * range), scale =
//            fp16(range * r / levels); the r with the least sum of e^4 (I4) or e^2 (I2) over the
//            errors e, e^4 = (e * e) * (e * e); only a strictly smaller sum replaces an earlier one
//   I1       m = mean, a = mean of |x - m|, low = m - a, step = 2 * a; then kLevelSteps times: the
//            values from low + 0.5 * step on are the upper ones; unless one side is empty, low =
//            mean of the lower, step = mean of the upper - low. zero = fp16(low), scale =
//            fp16(step). Means divide a sum by the count. This is Lloyd's iteration for two levels
//   spread   I4, I2, I1: where it is not 1, scale = fp16(spread * scale) and zero = fp16(zero - 0.5
//   *
//            (spread - 1) * levels * scale) of what was found above; levels = 15, 3, 1
//   any      max == min: scale = 0, zero = fp16(min)
//
// Codes are computed against the rounded scale and zero, so a block encoded with its own header and
// one encoded with the same header shared hold the same codes.
#pragma once

#include <bit>
#include <cstdint>

#include "vkv/types.h"

namespace vkv {

inline constexpr int kPartialSums = 32;        // a warp of a GPU
inline constexpr int kLevelSteps = 3;          // of Lloyd's iteration, I1
inline constexpr float kHalfMax = 65504.0f;    // the largest fp16
inline constexpr uint16_t kHalfInf = 0x7c00u;  // exponent bits of fp16; with mantissa 0 infinity

VKV_HD constexpr float float_from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = half & 0x7c00u, mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: exact, mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  const uint32_t rebias = exponent == 0x7c00u ? (255u - 31u) << 23 : (127u - 15u) << 23;
  return std::bit_cast<float>(sign | ((static_cast<uint32_t>(half & 0x7fffu) << 13) + rebias));
}

// Rounds to nearest, ties to even; from 65520 on it is infinity.
VKV_HD constexpr uint16_t half_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | kHalfInf);
  if (magnitude < 0x38800000u) {  // subnormal: one unit of fp16 is the last place of 0.5f
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  magnitude += 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000u) >> 13);
}

VKV_HD constexpr float float_from_bfloat(uint16_t bfloat) {
  return std::bit_cast<float>(static_cast<uint32_t>(bfloat) << 16);
}

VKV_HD constexpr uint16_t bfloat_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// `codec` is kF16 or kBf16.
VKV_HD constexpr float float_from_16_bit(Codec codec, uint16_t bits) {
  return codec == Codec::kBf16 ? float_from_bfloat(bits) : float_from_half(bits);
}

VKV_HD constexpr uint16_t float_to_16_bit(Codec codec, float value) {
  return codec == Codec::kBf16 ? bfloat_from_float(value) : half_from_float(value);
}

VKV_HD constexpr bool is_finite(float value) {
  return (std::bit_cast<uint32_t>(value) & 0x7f800000u) != 0x7f800000u;
}

VKV_HD constexpr int code_max(int bits) { return (1 << bits) - 1; }

// A value is zero + scale * code. Both are fp16 values held as fp32, so scale * code is exact.
struct ChannelScale {
  float scale = 0.0f;
  float zero = 0.0f;
};

// What encode_value() multiplies with instead of dividing.
VKV_HD constexpr float inverse_scale(float scale) { return scale == 0.0f ? 0.0f : 1.0f / scale; }

// The nearest code as a float, 0 .. code_max; ties go to the even one.
VKV_HD constexpr float encode_value(float value, float zero, float inverse, float code_limit) {
  float position = (value - zero) * inverse;
  position = position < 0.0f ? 0.0f : position;
  position = position > code_limit ? code_limit : position;
  return (position + 0x1p23f) - 0x1p23f;  // the last place of 2^23 is 1
}

// Moves levels away from their middle. `found` is rounded; the result is not.
VKV_HD constexpr ChannelScale spread_scale(ChannelScale found, float spread, float code_limit) {
  return {spread * found.scale, found.zero - 0.5f * (spread - 1.0f) * code_limit * found.scale};
}

// I1 splits at the middle of its two values.
VKV_HD constexpr float encode_sign(float value, float zero, float scale) {
  return scale != 0.0f && value >= zero + 0.5f * scale ? 1.0f : 0.0f;
}

VKV_HD constexpr float decode_value(float code, float zero, float scale) {
  return zero + scale * code;
}

// Candidates for r. Errors of I4 count by their fourth power: attention is decided by the few keys
// that stand out, and squares clip them for the sake of the many (TinyVLM's divergence at K and V
// I4 falls from 2.1e-4 to 0.8e-4, that of real text by a quarter). At 2 bits there is no room for
// that: squares are better. Finer steps gain less than 1 % of the error.
VKV_HD constexpr int shrink_steps(int bits) { return bits == 4 ? 4 : 8; }
VKV_HD constexpr float shrink_factor(int bits, int step) {
  return static_cast<float>(20 - (bits == 4 ? step : 2 * step)) / 20.0f;
}

// What an error adds to the sum that is to be least.
VKV_HD constexpr float error_term(int bits, float error) {
  const float square = error * error;
  return bits == 4 ? square * square : square;
}

// Scale and zero of a channel before they are rounded to fp16; `shrink` is 1 for I8.
VKV_HD constexpr ChannelScale shrunk_scale(float min, float range, float shrink, float code_limit) {
  return {range * shrink / code_limit, min + (1.0f - shrink) * 0.5f * range};
}

}  // namespace vkv
