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

inline Floats scaled_at(const float* q, const float* scale, int c) {
  return load<Floats>(q + c) * load<Floats>(scale + c);
}

// Some rows side by side: they share the loads of scales and zeros, and none waits for the end of
// its own sums.
constexpr int kTogether = 4;

template <int kRows>
void make_some_planes(const float* q, const double* wide_q, int first, int rows, int channels,
                      const float* scale, const double* zero, float code_middle,
                      const QueryPlanes& planes) {
  const size_t at = static_cast<size_t>(first) * channels;
  // 1. The largest |q * scale|. Bits of non-negative floats compare like the floats, and those of
  // NaN are the largest, so NaN gets through.
  Ints largest[kRows] = {};
  for (int c = 0; c < channels; c += kLanes)
    for (int i = 0; i < kRows; ++i)
      largest[i] =
          max_of(bits_of(scaled_at(q + at + i * channels, scale, c)) & 0x7fffffff, largest[i]);
  float inverse[kRows];
  for (int i = 0; i < kRows; ++i) {
    const int32_t bits = max_of_lanes(largest[i]);
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof(magnitude));
    const float step = magnitude / kQuerySteps;
    planes.step[first + i] = step;
    // A row so small that its step is subnormal has no score to speak of, and no inverse.
    inverse[i] = step < 0x1p-126f ? 0.0f : 1.0f / step;
  }
  // 2. Planes, and what rounding took off q * scale.
  uint8_t* const high = planes.planes + at;
  uint8_t* const low = high + static_cast<size_t>(rows) * channels;
  const Floats shift = all(kRoundingShift + 128.0f);
  constexpr int kLowFlip = 0x80;  // takes the 128 off the low byte
  Floats rest[kRows] = {};
  for (int c = 0; c < channels; c += 2 * kLanes)
    for (int i = 0; i < kRows; ++i) {
      Floats shifted[2];  // its low 16 bits are n + 128
      for (int half = 0; half < 2; ++half) {
        const Floats scaled = scaled_at(q + at + i * channels, scale, c + half * kLanes);
        shifted[half] = scaled * inverse[i] + shift;
        rest[i] += scaled - (shifted[half] - shift) * planes.step[first + i];
      }
      store_planes(bits_of(shifted[0]), bits_of(shifted[1]), kLowFlip, high + i * channels + c,
                   low + i * channels + c);
    }
  // 3. What codes do not see.
  Doubles even[kRows] = {}, odd[kRows] = {};
  for (int c = 0; c < channels; c += kLanes)
    for (int i = 0; i < kRows; ++i) {
      const double* const row = wide_q + at + i * channels + c;
      even[i] += load<Doubles>(row) * load<Doubles>(zero + c);
      odd[i] += load<Doubles>(row + 8) * load<Doubles>(zero + c + 8);
    }
  for (int i = 0; i < kRows; ++i)
    planes.beta[first + i] =
        sum_of_lanes(even[i] + odd[i]) + double{code_middle} * double{sum_of_lanes(rest[i])};
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
  for (int row = 0; row < rows; row += kTogether) {
    const int left = rows - row;
    for (int i = 0; i < left && i < kTogether; ++i) step(planes.ahead);
    const auto make = left == 1   ? make_some_planes<1>
                      : left == 2 ? make_some_planes<2>
                      : left == 3 ? make_some_planes<3>
                                  : make_some_planes<kTogether>;
    make(q, wide_q, row, rows, channels, scale, zero, code_middle, planes);
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
