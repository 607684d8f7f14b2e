// scheme.cpp: the rules of the published schemes, one function each.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/scheme.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "runtime/base/codec.h"
#include "tools/quality/metrics.h"
#include "vkv/status.h"

namespace vkv {
namespace {

constexpr int kKiviGroup = 32;           // tokens of K, channels of V
constexpr double kPairBits = 2 * 16;     // fp16 scale and zero point
constexpr double kTensorScaleBits = 32;  // fp32

float as_half(double value) {
  const float bounded = std::clamp(static_cast<float>(value), -kHalfMax, kHalfMax);
  return float_from_half(half_from_float(bounded));
}

// `count` values that lie `stride` apart.
struct Strided {
  float* first;
  size_t stride;
  int count;

  float& operator[](int i) const { return first[static_cast<size_t>(i) * stride]; }
};

// Codes of `bits` bits over [low, high]; the scale and the zero point are rounded to fp16 first.
void quantize_range(const Strided& values, double low, double high, int bits) {
  const auto levels = static_cast<float>(code_max(bits));
  const float zero = as_half(low), scale = as_half((high - low) / levels);
  for (int i = 0; i < values.count; ++i) {
    float& value = values[i];
    const float code =
        scale == 0 ? 0 : std::clamp(std::nearbyint((value - zero) / scale), 0.0f, levels);
    value = zero + scale * code;
  }
}

struct Range {
  double low, high;
};

Range range_of(const Strided& values) {
  Range range = {values[0], values[0]};
  for (int i = 1; i < values.count; ++i) {
    range.low = std::min<double>(range.low, values[i]);
    range.high = std::max<double>(range.high, values[i]);
  }
  return range;
}

double abs_max(const SegmentShape& shape, float* values) {
  float greatest = 0;
  for (size_t i = 0; i < shape.values(); ++i) greatest = std::max(greatest, std::fabs(values[i]));
  const float scale = greatest / 7;
  if (scale > 0)
    for (size_t i = 0; i < shape.values(); ++i)
      values[i] = scale * std::nearbyint(values[i] / scale);
  return 4.0 * static_cast<double>(shape.values()) + kTensorScaleBits;
}

// Calls body(values) for every (KV head, channel) over rows [first, first + count).
template <class Body>
void for_channels(const SegmentShape& shape, float* values, int first, int count,
                  const Body& body) {
  for (size_t c = 0; c < shape.width(); ++c)
    body(Strided{values + static_cast<size_t>(first) * shape.width() + c, shape.width(), count});
}

double per_channel_bits(const SegmentShape& shape, int bits) {
  return bits * static_cast<double>(shape.values()) +
         kPairBits * static_cast<double>(shape.width());
}

double kivi_k(const SegmentShape& shape, int bits, float* k) {
  double stored = bits * static_cast<double>(shape.values());
  for (int first = 0; first < shape.rows; first += kKiviGroup) {
    const int count = std::min(kKiviGroup, shape.rows - first);
    for_channels(shape, k, first, count, [&](const Strided& values) {
      const Range range = range_of(values);
      quantize_range(values, range.low, range.high, bits);
    });
    stored += kPairBits * static_cast<double>(shape.width());
  }
  return stored;
}

double kivi_v(const SegmentShape& shape, int bits, float* v) {
  double stored = bits * static_cast<double>(shape.values());
  for (size_t head = 0; head < static_cast<size_t>(shape.rows * shape.kv_heads); ++head) {
    for (int first = 0; first < shape.head_dim; first += kKiviGroup) {
      float* const group = v + head * static_cast<size_t>(shape.head_dim) + first;
      const Strided values = {group, 1, std::min(kKiviGroup, shape.head_dim - first)};
      const Range range = range_of(values);
      quantize_range(values, range.low, range.high, bits);
      stored += kPairBits;
    }
  }
  return stored;
}

double quantile_clip(const SegmentShape& shape, int bits, double tau, float* x) {
  for_channels(shape, x, 0, shape.rows, [&](const Strided& values) {
    Range range = range_of(values);
    if (tau > 0) {
      std::vector<double> sorted(static_cast<size_t>(values.count));
      for (int i = 0; i < values.count; ++i) sorted[static_cast<size_t>(i)] = values[i];
      range = {quantile(sorted, tau), quantile(sorted, 1 - tau)};
    }
    quantize_range(values, range.low, range.high, bits);
  });
  return per_channel_bits(shape, bits);
}

double calib_quant(const SegmentShape& shape, int bits, double kappa, float* x) {
  for_channels(shape, x, 0, shape.rows, [&](const Strided& values) {
    const Range range = range_of(values);
    // The release divides by zero where a channel is constant: keep its value.
    const double shrink = range.low == range.high ? 1 : kappa;
    quantize_range(values, shrink * range.low, shrink * range.high, bits);
  });
  return per_channel_bits(shape, bits);
}

}  // namespace

double round_trip_k(const Scheme& scheme, const SegmentShape& shape, float* k) {
  switch (scheme.kind) {
    case SchemeKind::kAbsMax:
      return abs_max(shape, k);
    case SchemeKind::kKivi:
      return kivi_k(shape, scheme.bits, k);
    case SchemeKind::kQuantile:
      return quantile_clip(shape, scheme.bits, scheme.tau, k);
    case SchemeKind::kCalibQuant:
      return calib_quant(shape, scheme.bits, scheme.kappa_k, k);
    case SchemeKind::kBlank:
      std::fill_n(k, shape.values(), 0.0f);
      return 0;
    case SchemeKind::kCodec:
      break;
  }
  VKV_CHECK(scheme.kind != SchemeKind::kCodec);
  return 0;
}

double round_trip_v(const Scheme& scheme, const SegmentShape& shape, float* v) {
  if (scheme.kind == SchemeKind::kKivi) return kivi_v(shape, scheme.bits, v);
  Scheme same = scheme;
  same.kappa_k = scheme.kappa_v;
  return round_trip_k(same, shape, v);
}

}  // namespace vkv
