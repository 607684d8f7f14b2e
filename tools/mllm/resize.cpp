// resize.cpp: separable resampling in 8-bit fixed point.
// SPDX-License-Identifier: Apache-2.0
//
// Source: Pillow, src/libImaging/Resample.c; PyTorch, aten/src/ATen/native/cpu/UpSampleKernel.cpp
// (compute_index_ranges_int16_weights).
#include "tools/mllm/resize.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "vkv/status.h"

namespace vkv {
namespace {

double bilinear_weight(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

double bicubic_weight(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// Which source values make a target value, and with which weights.
struct Taps {
  int first = 0;
  int count = 0;
};

struct Weights {
  std::vector<Taps> taps;        // [targets]
  std::vector<int16_t> weights;  // [targets, taps_max]
  int taps_max = 0;
  int precision = 0;  // the weights of a target add up to about 1 << precision
};

Weights make_weights(int sources, int targets, Resample resample) {
  const double scale = static_cast<double>(sources) / targets;
  const double half_width = (resample == Resample::kBicubic ? 2.0 : 1.0) * std::max(scale, 1.0);
  const double inverse_scale = scale >= 1.0 ? 1.0 / scale : 1.0;

  Weights result;
  result.taps_max = static_cast<int>(std::ceil(half_width)) * 2 + 1;
  result.taps.resize(static_cast<size_t>(targets));
  std::vector<double> exact(result.taps.size() * static_cast<size_t>(result.taps_max), 0.0);
  double weight_max = 0;
  for (int target = 0; target < targets; ++target) {
    const double center = scale * (target + 0.5);
    const int first = std::max(static_cast<int>(center - half_width + 0.5), 0);
    const int end = std::min(static_cast<int>(center + half_width + 0.5), sources);
    const int count = std::clamp(end - first, 0, result.taps_max);
    double* weights = &exact[static_cast<size_t>(target) * static_cast<size_t>(result.taps_max)];
    double sum = 0;
    for (int i = 0; i < count; ++i) {
      const double x = (i + first - center + 0.5) * inverse_scale;
      weights[i] = resample == Resample::kBicubic ? bicubic_weight(x) : bilinear_weight(x);
      sum += weights[i];
    }
    for (int i = 0; i < count && sum != 0; ++i) {
      weights[i] /= sum;
      weight_max = std::max(weight_max, weights[i]);
    }
    result.taps[static_cast<size_t>(target)] = {first, count};
  }

  // As many bits as let the largest weight of all targets fit 16.
  while (result.precision < 22 &&
         static_cast<int>(0.5 + weight_max * (1 << (result.precision + 1))) < (1 << 15)) {
    ++result.precision;
  }
  result.weights.reserve(exact.size());
  for (const double weight : exact) {
    const double scaled = weight * (1 << result.precision);
    result.weights.push_back(static_cast<int16_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
  }
  return result;
}

uint8_t rounded(int sum, int precision) {
  return static_cast<uint8_t>(std::clamp(sum >> precision, 0, 255));
}

Image resize_rows(const Image& image, int width, Resample resample) {
  const Weights weights = make_weights(image.width, width, resample);
  Image target{width, image.height, {}};
  target.rgb.resize(static_cast<size_t>(width) * static_cast<size_t>(image.height) * 3);
  uint8_t* out = target.rgb.data();
  for (int y = 0; y < image.height; ++y) {
    const uint8_t* row =
        image.rgb.data() + static_cast<size_t>(y) * static_cast<size_t>(image.width) * 3;
    const int16_t* weight = weights.weights.data();
    for (const Taps taps : weights.taps) {
      int sum[3] = {1 << (weights.precision - 1), sum[0], sum[0]};
      const uint8_t* source = row + static_cast<size_t>(taps.first) * 3;
      for (int i = 0; i < taps.count; ++i, source += 3) {
        for (int c = 0; c < 3; ++c) sum[c] += weight[i] * source[c];
      }
      for (const int s : sum) *out++ = rounded(s, weights.precision);
      weight += weights.taps_max;
    }
  }
  return target;
}

Image resize_columns(const Image& image, int height, Resample resample) {
  const Weights weights = make_weights(image.height, height, resample);
  const size_t row_bytes = static_cast<size_t>(image.width) * 3;
  Image target{image.width, height, {}};
  target.rgb.resize(row_bytes * static_cast<size_t>(height));
  std::vector<int> sums(row_bytes);
  for (int y = 0; y < height; ++y) {
    const Taps taps = weights.taps[static_cast<size_t>(y)];
    const int16_t* weight =
        &weights.weights[static_cast<size_t>(y) * static_cast<size_t>(weights.taps_max)];
    std::fill(sums.begin(), sums.end(), 1 << (weights.precision - 1));
    for (int i = 0; i < taps.count; ++i) {
      const uint8_t* source = image.rgb.data() + static_cast<size_t>(taps.first + i) * row_bytes;
      for (size_t x = 0; x < row_bytes; ++x) sums[x] += weight[i] * source[x];
    }
    uint8_t* out = target.rgb.data() + static_cast<size_t>(y) * row_bytes;
    for (size_t x = 0; x < row_bytes; ++x) out[x] = rounded(sums[x], weights.precision);
  }
  return target;
}

}  // namespace

Image resize(const Image& image, int width, int height, Resample resample) {
  VKV_CHECK(image.width > 0 && image.height > 0 && width > 0 && height > 0);
  VKV_CHECK(image.rgb.size() ==
            static_cast<size_t>(image.width) * static_cast<size_t>(image.height) * 3);
  if (width == image.width && height == image.height) return image;
  if (width == image.width) return resize_columns(image, height, resample);
  Image rows = resize_rows(image, width, resample);
  return height == image.height ? rows : resize_columns(rows, height, resample);
}

}  // namespace vkv
