// channel_statistics.cpp: sums, ranges and the search for the best range of a strip of channels.
// SPDX-License-Identifier: Apache-2.0
//
// Compiled without contraction to fma: the bits must not depend on the instruction set.
#include "cpu/channel_statistics.h"

#include <limits>

#include "runtime/base/codec.h"

namespace vkv {
namespace {

constexpr int kWidth = kStripChannels;

struct PartialSums {
  float sum[kPartialSums][kWidth] = {};

  // The tree of codec.h; the total is sum[0].
  const float* total() {
    for (int step = kPartialSums / 2; step > 0; step /= 2)
      for (int j = 0; j < step; ++j)
        for (int c = 0; c < kWidth; ++c) sum[j][c] += sum[j + step][c];
    return sum[0];
  }
};

struct StripScale {
  float scale[kWidth];
  float zero[kWidth];
};

StripScale rounded(const StripScale& exact, StripHeader* header) {
  StripScale result;
  for (int c = 0; c < kWidth; ++c) {
    header->scale[c] = half_from_float(exact.scale[c]);
    header->zero[c] = half_from_float(exact.zero[c]);
    result.scale[c] = float_from_half(header->scale[c]);
    result.zero[c] = float_from_half(header->zero[c]);
  }
  return result;
}

// Sum over rows of the squared differences between values and their decoded codes.
void squared_errors(const float* values, int row_count, const StripScale& s, float code_limit,
                    float* errors) {
  float inverse[kWidth];
  for (int c = 0; c < kWidth; ++c) inverse[c] = inverse_scale(s.scale[c]);

  PartialSums sums;
  for (int row = 0; row < row_count; ++row) {
    const float* x = values + static_cast<size_t>(row) * kWidth;
    float* sum = sums.sum[row % kPartialSums];
    for (int c = 0; c < kWidth; ++c) {
      const float code = encode_value(x[c], s.zero[c], inverse[c], code_limit);
      const float error = x[c] - decode_value(code, s.zero[c], s.scale[c]);
      sum[c] += error * error;
    }
  }
  const float* total = sums.total();
  for (int c = 0; c < kWidth; ++c) errors[c] = total[c];
}

void strip_range(const float* values, int row_count, float* min, float* max) {
  for (int c = 0; c < kWidth; ++c) min[c] = max[c] = values[c];
  for (int row = 1; row < row_count; ++row) {
    const float* x = values + static_cast<size_t>(row) * kWidth;
    for (int c = 0; c < kWidth; ++c) {
      min[c] = x[c] < min[c] ? x[c] : min[c];
      max[c] = x[c] > max[c] ? x[c] : max[c];
    }
  }
}

StripHeader shrunk_header(const float* values, int row_count, const float* min, const float* max,
                          int bits) {
  const float code_limit = static_cast<float>(code_max(bits));
  const int steps = bits == 8 ? 1 : kShrinkSteps;
  StripHeader best = {};
  float least[kWidth] = {};
  for (int step = 0; step < steps; ++step) {
    StripScale exact;
    for (int c = 0; c < kWidth; ++c) {
      const ChannelScale s = shrunk_scale(min[c], max[c] - min[c], shrink_factor(step), code_limit);
      exact.scale[c] = s.scale;
      exact.zero[c] = s.zero;
    }
    StripHeader header;
    const StripScale s = rounded(exact, &header);
    if (steps == 1) return header;

    float errors[kWidth];
    squared_errors(values, row_count, s, code_limit, errors);
    for (int c = 0; c < kWidth; ++c) {
      if (step > 0 && !(errors[c] < least[c])) continue;
      least[c] = errors[c];
      best.scale[c] = header.scale[c];
      best.zero[c] = header.zero[c];
    }
  }
  return best;
}

StripHeader sign_header(const float* values, int row_count) {
  float mean[kWidth];
  strip_mean(values, row_count, mean);

  PartialSums sums;
  for (int row = 0; row < row_count; ++row) {
    const float* x = values + static_cast<size_t>(row) * kWidth;
    float* sum = sums.sum[row % kPartialSums];
    for (int c = 0; c < kWidth; ++c) {
      const float distance = x[c] - mean[c];
      sum[c] += distance < 0.0f ? -distance : distance;
    }
  }
  const float* total = sums.total();
  StripScale exact;
  for (int c = 0; c < kWidth; ++c) {
    const float spread = total[c] / static_cast<float>(row_count);
    exact.scale[c] = 2.0f * spread;
    exact.zero[c] = mean[c] - spread;
  }
  StripHeader header;
  rounded(exact, &header);
  return header;
}

}  // namespace

void strip_mean(const float* values, int row_count, float* mean) {
  PartialSums sums;
  for (int row = 0; row < row_count; ++row) {
    const float* x = values + static_cast<size_t>(row) * kWidth;
    float* sum = sums.sum[row % kPartialSums];
    for (int c = 0; c < kWidth; ++c) sum[c] += x[c];
  }
  const float* total = sums.total();
  for (int c = 0; c < kWidth; ++c) mean[c] = total[c] / static_cast<float>(row_count);
}

StripHeader strip_header(Codec codec, const float* values, int row_count) {
  float min[kWidth], max[kWidth];
  strip_range(values, row_count, min, max);
  StripHeader header = codec == Codec::kI1
                           ? sign_header(values, row_count)
                           : shrunk_header(values, row_count, min, max, bits_of(codec));
  for (int c = 0; c < kWidth; ++c) {
    if (min[c] != max[c]) continue;
    header.scale[c] = 0;
    header.zero[c] = half_from_float(min[c]);
  }
  return header;
}

void strip_codes(Codec codec, const StripHeader& header, const float* values, int row_count,
                 uint8_t* codes) {
  const float code_limit = static_cast<float>(code_max(bits_of(codec)));
  float scale[kWidth], zero[kWidth], inverse[kWidth];
  for (int c = 0; c < kWidth; ++c) {
    scale[c] = float_from_half(header.scale[c]);
    zero[c] = float_from_half(header.zero[c]);
    inverse[c] = inverse_scale(scale[c]);
  }
  for (int row = 0; row < row_count; ++row) {
    const float* x = values + static_cast<size_t>(row) * kWidth;
    uint8_t* code = codes + static_cast<size_t>(row) * kWidth;
    for (int c = 0; c < kWidth; ++c) {
      const float nearest = codec == Codec::kI1
                                ? encode_sign(x[c], zero[c], scale[c])
                                : encode_value(x[c], zero[c], inverse[c], code_limit);
      code[c] = static_cast<uint8_t>(static_cast<int>(nearest));
    }
  }
}

}  // namespace vkv
