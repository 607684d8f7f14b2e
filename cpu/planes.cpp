// planes.cpp: fp32 rows -> two planes of unsigned bytes, and their products back to fp32.
// SPDX-License-Identifier: Apache-2.0
//
// A row x of q * s becomes n = round(x / step) in two signed bytes, n = 256 high + low: the low
// byte of n, and the high byte of n + 128. So with codes c
//
//   sum x c = step * (256 * sum high c + sum low c).
//
// What rounding took off x meets the middle of the codes' range through beta: its product with the
// mean code would shift all scores of a block alike.
#include "cpu/planes.h"

#include "cpu/ahead.h"
#include "cpu/lanes.h"

namespace vkv::VKV_ISA {
namespace {

inline double dot_of(const double* a, const double* b, int channels) {
  Doubles even = {}, odd = {};
  for (int c = 0; c < channels; c += kLanes) {
    even += load<Doubles>(a + c) * load<Doubles>(b + c);
    odd += load<Doubles>(a + c + 8) * load<Doubles>(b + c + 8);
  }
  return sum_of_lanes(even + odd);
}

// The largest |q * scale| of a row. Bits of non-negative floats compare like the floats, and those
// of NaN are the largest, so NaN gets through.
inline float row_magnitude(const float* q, int channels, const float* scale) {
  Ints largest = {};
  for (int c = 0; c < channels; c += kLanes) {
    const Ints bits = bits_of(load<Floats>(q + c) * load<Floats>(scale + c));
    largest = max_of(bits & 0x7fffffff, largest);
  }
  const int32_t bits = max_of_lanes(largest);
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof(magnitude));
  return magnitude;
}

// Writes a row's planes; returns what rounding took off q * scale, summed over the channels.
inline float make_row_planes(const float* q, int channels, const float* scale, float step,
                             uint8_t* high, uint8_t* low) {
  // A row so small that its step is subnormal has no score to speak of, and no inverse.
  const float inverse = step < 0x1p-126f ? 0.0f : 1.0f / step;
  const Floats shift = all(kRoundingShift + 128.0f);
  constexpr int kLowFlip = 0x80;  // takes the 128 off the low byte
  Floats rest_sum = {};
  for (int c = 0; c < channels; c += 2 * kLanes) {
    Floats shifted[2];  // its low 16 bits are n + 128
    for (int i = 0; i < 2; ++i) {
      const Floats scaled = load<Floats>(q + c + i * kLanes) * load<Floats>(scale + c + i * kLanes);
      shifted[i] = scaled * inverse + shift;
      rest_sum += scaled - (shifted[i] - shift) * step;
    }
    store_planes(bits_of(shifted[0]), bits_of(shifted[1]), kLowFlip, high + c, low + c);
  }
  return sum_of_lanes(rest_sum);
}

// out = keep * out + gain * (scale * product) + shift * zero over one row.
template <class Product>
inline void add_row(const Product& product, int row, float gain, float shift,
                    const TileOutput& output) {
  step(output.ahead);
  float* out = output.out + static_cast<size_t>(row) * output.channels;
  const float keep = output.keep[row];
  for (int c = 0; c < output.channels; c += kLanes) {
    Floats sum = load<Floats>(out + c) * keep;
    if (output.scale == nullptr)
      sum += product(c) * gain;
    else
      sum += product(c) * gain * load<Floats>(output.scale + c) +
             load<Floats>(output.zero + c) * shift;
    store(out + c, sum);
  }
}

}  // namespace

void make_query_planes(const float* q, const double* wide_q, int rows, int channels,
                       const float* scale, const double* zero, float code_middle,
                       const QueryPlanes& planes) {
  // In two passes, so that the second does not wait for each row's maximum.
  for (int row = 0; row < rows; ++row)
    planes.step[row] =
        row_magnitude(q + static_cast<size_t>(row) * channels, channels, scale) / kQuerySteps;
  for (int row = 0; row < rows; ++row) {
    step(planes.ahead);
    const float* source = q + static_cast<size_t>(row) * channels;
    const float rest = make_row_planes(source, channels, scale, planes.step[row],
                                       planes.planes + static_cast<size_t>(row) * channels,
                                       planes.planes + static_cast<size_t>(rows + row) * channels);
    planes.beta[row] = dot_of(wide_q + static_cast<size_t>(row) * channels, zero, channels) +
                       double{code_middle} * double{rest};
  }
}

void scale_queries(const float* q, const double* wide_q, int rows, int channels, const float* scale,
                   const double* zero, float* scaled, double* beta) {
  for (int row = 0; row < rows; ++row) {
    const size_t at = static_cast<size_t>(row) * channels;
    for (int c = 0; c < channels; c += kLanes)
      store(scaled + at + c, load<Floats>(q + at + c) * load<Floats>(scale + c));
    beta[row] = dot_of(wide_q + at, zero, channels);
  }
}

void make_unsigned(const uint8_t* bytes, size_t count, uint8_t* target) {
  for (size_t i = 0; i < count; i += sizeof(Words8))
    store(target + i, load<Words8>(bytes + i) ^ 0x80808080u);
}

void subtract_code_sums(const int32_t* products, const int32_t* code_sums, int row_count,
                        int row_stride, int n, int32_t* target, int target_stride) {
  for (int row = 0; row < row_count; ++row) {
    const int32_t* const source = products + static_cast<size_t>(row) * row_stride;
    int32_t* const to = target + static_cast<size_t>(row) * target_stride;
    for (int i = 0; i < n; i += kLanes)
      store(to + i, load<Ints>(source + i) - load<Ints>(code_sums + i) * 128);
  }
}

void scores_from_planes(const int32_t* products, int rows, int tokens, const float* step,
                        float factor, float* scores) {
  for (int row = 0; row < rows; ++row) {
    const int32_t* high = products + static_cast<size_t>(row) * kTileTokens;
    const int32_t* low = products + static_cast<size_t>(rows + row) * kTileTokens;
    float* target = scores + static_cast<size_t>(row) * kTileTokens;
    const float gain = step[row] * factor;
    // The sum is below 2^15 * 2^8 * 2^8 channels: nothing overflows.
    for (int t = 0; t < tokens; t += kLanes)
      store(target + t, to_floats(load<Ints>(high + t) * 256 + load<Ints>(low + t)) * gain);
  }
}

void scale_scores(float* scores, int rows, int tokens, float factor) {
  for (int row = 0; row < rows; ++row)
    for (int t = 0; t < tokens; t += kLanes) {
      float* at = scores + static_cast<size_t>(row) * kTileTokens + t;
      store(at, load<Floats>(at) * factor);
    }
}

void scale_weights(const TileWeights& weights, const TokenScales& scales) {
  for (int row = 0; row < weights.rows; ++row) {
    float* scores = weights.scores + static_cast<size_t>(row) * kTileTokens;
    Floats zeros = {};
    for (int t = 0; t < weights.tokens; t += kLanes) {
      const Floats weight = load<Floats>(scores + t);
      zeros += weight * load<Floats>(scales.zero + t);
      store(scores + t, weight * load<Floats>(scales.scale + t));
    }
    scales.zero_sum[row] = sum_of_lanes(zeros);
  }
}

void add_plane_products(const int32_t* products, const TileOutput& output) {
  for (int row = 0; row < output.rows; ++row) {
    const int32_t* high = products + static_cast<size_t>(row) * output.channels;
    const int32_t* low = products + static_cast<size_t>(output.rows + row) * output.channels;
    const float gain = output.weight[row] * (1.0f / kPlaneSteps);
    const float shift = output.weight[row] * output.sum[row];
    add_row([=](int c) { return to_floats(load<Ints>(high + c) * 256 + load<Ints>(low + c)); }, row,
            gain, shift, output);
  }
}

void add_products(const float* products, const TileOutput& output) {
  for (int row = 0; row < output.rows; ++row) {
    const float* product = products + static_cast<size_t>(row) * output.channels;
    add_row([=](int c) { return load<Floats>(product + c); }, row, output.weight[row],
            output.weight[row] * output.sum[row], output);
  }
}

}  // namespace vkv::VKV_ISA
