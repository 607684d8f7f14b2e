// strip_plain.cpp: the encoder's loops, one value at a time, as the format's text has them.
// SPDX-License-Identifier: Apache-2.0
//
// Compiled without contraction to fma: the bits must not depend on the instruction set.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/strip_functions.h"
#include "runtime/base/block_format.h"
#include "runtime/base/codec.h"
#include "runtime/base/hadamard.h"

namespace vkv {
namespace {

struct Row {
  float values[kHeadDimMax] = {};
  bool finite = true;
};

Row load_row(const HalfRows& rows, int index) {
  const uint16_t* source = rows.values + rows.rows[index] * rows.row_stride;
  Row row;
  for (int c = 0; c < rows.channel_count; ++c) {
    row.values[c] = rows.bfloat ? float_from_bfloat(source[c]) : float_from_half(source[c]);
    if (rows.mean != nullptr) row.values[c] -= rows.mean[c];
  }
  if (rows.rotated) hadamard(row.values, rows.channel_count);
  for (const float value : row.values) row.finite = row.finite && is_finite(value);
  return row;
}

bool gather_channels(const HalfRows& rows, int strip_begin, int strip_end, float* values) {
  bool finite = true;
  for (int r = 0; r < rows.row_count; ++r) {
    const Row row = load_row(rows, r);
    finite = finite && row.finite;
    for (int strip = strip_begin; strip < strip_end; ++strip) {
      const size_t sample = static_cast<size_t>(strip - strip_begin) * rows.row_count + r;
      std::copy_n(row.values + strip * kStripLanes, kStripLanes, values + sample * kStripLanes);
    }
  }
  return finite;
}

bool gather_tokens(const HalfRows& rows, int strip_begin, int strip_end, float* values) {
  bool finite = true;
  for (int r = strip_begin * kStripLanes; r < strip_end * kStripLanes; ++r) {
    const Row row = r < rows.row_count ? load_row(rows, r) : Row{};
    finite = finite && row.finite;
    float* strip = values + static_cast<size_t>(r / kStripLanes - strip_begin) *
                                rows.channel_count * kStripLanes;
    for (int c = 0; c < rows.channel_count; ++c)
      strip[c * kStripLanes + r % kStripLanes] = row.values[c];
  }
  return finite;
}

bool copy_halves(const HalfRows& rows, int padded_rows, int padded_channels, bool transposed,
                 uint16_t* target) {
  std::fill_n(target, static_cast<size_t>(padded_rows) * padded_channels, uint16_t{0});
  const size_t row_step = transposed ? 1 : padded_channels;
  const size_t channel_step = transposed ? padded_rows : 1;
  bool finite = true;
  for (int r = 0; r < rows.row_count; ++r) {
    const uint16_t* source = rows.values + rows.rows[r] * rows.row_stride;
    for (int c = 0; c < rows.channel_count; ++c) {
      target[r * row_step + c * channel_step] = source[c];
      finite = finite &&
               is_finite(rows.bfloat ? float_from_bfloat(source[c]) : float_from_half(source[c]));
    }
  }
  return finite;
}

// The samples of one lane.
class Lane {
 public:
  Lane(const float* values, int sample_count, int lane)
      : values_(values + lane), count_(sample_count) {}

  int count() const { return count_; }
  float operator[](int sample) const { return values_[sample * kStripLanes]; }

  // The sum of term(value) over all samples, in the order of codec.h.
  template <class Term>
  float sum_of(const Term& term) const {
    float sums[kPartialSums] = {};
    for (int i = 0; i < count_; ++i) sums[i % kPartialSums] += term((*this)[i]);
    for (int step = kPartialSums / 2; step > 0; step /= 2)
      for (int j = 0; j < step; ++j) sums[j] += sums[j + step];
    return sums[0];
  }

  float mean() const {
    return sum_of([](float x) { return x; }) / static_cast<float>(count_);
  }

 private:
  const float* values_;
  int count_;
};

ChannelScale rounded(const ChannelScale& exact) {
  return {float_from_half(half_from_float(exact.scale)),
          float_from_half(half_from_float(exact.zero))};
}

ChannelScale sign_scale(const Lane& lane) {
  const float count = static_cast<float>(lane.count());
  const float mean = lane.mean();
  const float spread =
      lane.sum_of([=](float x) { return x - mean < 0.0f ? -(x - mean) : x - mean; }) / count;
  ChannelScale s = {2.0f * spread, mean - spread};
  for (int step = 0; step < kLevelSteps; ++step) {
    const float middle = s.zero + 0.5f * s.scale;
    const float upper_count = lane.sum_of([=](float x) { return x >= middle ? 1.0f : 0.0f; });
    if (upper_count == 0.0f || upper_count == count) break;
    const float upper = lane.sum_of([=](float x) { return x >= middle ? x : 0.0f; }) / upper_count;
    const float lower =
        lane.sum_of([=](float x) { return x >= middle ? 0.0f : x; }) / (count - upper_count);
    s = {upper - lower, lower};
  }
  return rounded(s);
}

ChannelScale best_shrunk_scale(const Lane& lane, float min, float max, int bits) {
  const float code_limit = static_cast<float>(code_max(bits));
  ChannelScale best = {};
  float least = 0.0f;
  for (int step = 0; step < shrink_steps(bits); ++step) {
    const ChannelScale s =
        rounded(shrunk_scale(min, max - min, shrink_factor(bits, step), code_limit));
    const float inverse = inverse_scale(s.scale);
    const float error = lane.sum_of([=](float x) {
      const float code = encode_value(x, s.zero, inverse, code_limit);
      return error_term(bits, x - decode_value(code, s.zero, s.scale));
    });
    if (step > 0 && !(error < least)) continue;
    least = error;
    best = s;
  }
  return best;
}

ChannelScale lane_scale(const Lane& lane, int bits) {
  float min = lane[0], max = lane[0];
  for (int i = 1; i < lane.count(); ++i) {
    min = std::min(min, lane[i]);
    max = std::max(max, lane[i]);
  }
  if (min == max) return rounded({0.0f, min});
  if (bits == 1) return sign_scale(lane);
  if (bits == 8) return rounded(shrunk_scale(min, max - min, 1.0f, 255.0f));
  return best_shrunk_scale(lane, min, max, bits);
}

void strip_mean(const float* values, int sample_count, float* mean) {
  for (int i = 0; i < kStripLanes; ++i) mean[i] = Lane(values, sample_count, i).mean();
}

StripHeader strip_header(int bits, float spread, const float* values, int sample_count) {
  StripHeader header;
  for (int i = 0; i < kStripLanes; ++i) {
    ChannelScale s = lane_scale(Lane(values, sample_count, i), bits);
    if (spread != 1.0f) s = spread_scale(s, spread, static_cast<float>(code_max(bits)));
    header.scale[i] = half_from_float(s.scale);
    header.zero[i] = half_from_float(s.zero);
  }
  return header;
}

void strip_codes(int bits, const StripHeader& header, const float* values, int sample_count,
                 int padded_samples, uint8_t* codes) {
  std::fill_n(codes, padded_samples * kStripLanes, uint8_t{0});
  for (int i = 0; i < sample_count * kStripLanes; ++i) {
    const float scale = float_from_half(header.scale[i % kStripLanes]);
    const float zero = float_from_half(header.zero[i % kStripLanes]);
    const float code = bits == 1 ? encode_sign(values[i], zero, scale)
                                 : encode_value(values[i], zero, inverse_scale(scale),
                                                static_cast<float>(code_max(bits)));
    codes[i] = static_cast<uint8_t>(static_cast<int>(code));
  }
}

void pack(int bits, const uint8_t* codes, int lanes, int samples, bool lane_columns,
          uint32_t* words) {
  std::fill_n(words, static_cast<size_t>(lanes) * samples * bits / 32, 0u);
  for (int lane = 0; lane < lanes; ++lane) {
    const uint8_t* strip = codes + static_cast<size_t>(lane / kStripLanes) * samples * kStripLanes;
    for (int sample = 0; sample < samples; ++sample) {
      const CodePosition at = lane_columns ? code_position(bits, lanes, sample, lane)
                                           : code_position(bits, samples, lane, sample);
      words[at.word] |= static_cast<uint32_t>(strip[sample * kStripLanes + lane % kStripLanes])
                        << at.bit;
    }
  }
}

void pack_lane_columns(int bits, const uint8_t* codes, int lanes, int samples, uint32_t* words) {
  pack(bits, codes, lanes, samples, /*lane_columns=*/true, words);
}

void pack_lane_rows(int bits, const uint8_t* codes, int lanes, int samples, uint32_t* words) {
  pack(bits, codes, lanes, samples, /*lane_columns=*/false, words);
}

}  // namespace

const StripFunctions& plain_strip_functions() {
  static constexpr StripFunctions kFunctions = {
      .gather_channels = &gather_channels,
      .gather_tokens = &gather_tokens,
      .copy_halves = &copy_halves,
      .strip_mean = &strip_mean,
      .strip_header = &strip_header,
      .strip_codes = &strip_codes,
      .pack_lane_columns = &pack_lane_columns,
      .pack_lane_rows = &pack_lane_rows,
  };
  return kFunctions;
}

}  // namespace vkv
