// strips.cpp: 16-bit rows -> strips of fp32 values, or 16-bit matrices.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/strips.h"

#include "cpu/lanes.h"
#include "cpu/rotate.h"
#include "cpu/transpose.h"
#include "runtime/base/block_format.h"  // constants only

namespace vkv::VKV_ISA {
namespace {

// Gathers whether values are finite: x * 0 is 0, or else NaN.
class FiniteCheck {
 public:
  void add(__m256 x) { sum_ = _mm256_fmadd_ps(x, _mm256_setzero_ps(), sum_); }
  bool all_finite() const {
    return _mm256_movemask_ps(_mm256_cmp_ps(sum_, sum_, _CMP_UNORD_Q)) == 0;
  }

 private:
  __m256 sum_ = _mm256_setzero_ps();
};

template <bool kBfloat>
bool gather_channels_of(const HalfRows& rows, int strip_begin, int strip_end, float* values) {
  alignas(64) float row[kHeadDimMax] = {};  // channels past channel_count stay 0
  FiniteCheck check;
  for (int r = 0; r < rows.row_count; ++r) {
    const uint16_t* source = rows.values + rows.rows[r] * rows.row_stride;
    for (int c = 0; c < rows.channel_count; c += 8) {
      __m256 x = widen<kBfloat>(load_halves(source + c));
      if (rows.mean != nullptr) x = _mm256_sub_ps(x, _mm256_loadu_ps(rows.mean + c));
      check.add(x);
      _mm256_store_ps(row + c, x);
    }
    if (rows.rotated) {
      rotate_rows(row, 1, rows.channel_count, rows.channel_count);
      for (int c = 0; c < rows.channel_count; c += 8) check.add(_mm256_load_ps(row + c));
    }
    float* target = values + static_cast<size_t>(r) * kStripLanes;
    for (int strip = strip_begin; strip < strip_end; ++strip) {
      store(target, load<Floats>(row + strip * kStripLanes));
      target += static_cast<size_t>(rows.row_count) * kStripLanes;
    }
  }
  return check.all_finite();
}

// Eight rows from `row` on, eight channels from `channel` on; rows that do not exist are 0.
inline void load_8x8(const HalfRows& rows, int row, int channel, __m128i (&lanes)[8]) {
  for (int g = 0; g < 8; ++g)
    lanes[g] = row + g < rows.row_count
                   ? load_halves(rows.values + rows.rows[row + g] * rows.row_stride + channel)
                   : _mm_setzero_si128();
}

template <bool kBfloat>
bool gather_tokens_of(const HalfRows& rows, int strip_begin, int strip_end, float* values) {
  FiniteCheck check;
  for (int row = strip_begin * kStripLanes; row < strip_end * kStripLanes; row += 8) {
    float* target =
        values +
        static_cast<size_t>(row / kStripLanes - strip_begin) * rows.channel_count * kStripLanes +
        row % kStripLanes;
    for (int channel = 0; channel < rows.channel_count; channel += 8) {
      __m128i lanes[8];
      load_8x8(rows, row, channel, lanes);
      transpose_8x8(lanes);
      for (const __m128i lane : lanes) {
        const __m256 x = widen<kBfloat>(lane);
        check.add(x);
        _mm256_storeu_ps(target, x);
        target += kStripLanes;
      }
    }
  }
  return check.all_finite();
}

template <bool kBfloat>
bool copy_halves_of(const HalfRows& rows, int padded_rows, int padded_channels, bool transposed,
                    uint16_t* target) {
  FiniteCheck check;
  const __m128i zeros = _mm_setzero_si128();
  for (int row = 0; row < padded_rows; row += 8) {
    for (int channel = 0; channel < padded_channels; channel += 8) {
      __m128i lanes[8] = {zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros};
      if (channel < rows.channel_count) load_8x8(rows, row, channel, lanes);
      for (const __m128i lane : lanes) check.add(widen<kBfloat>(lane));
      if (transposed) transpose_8x8(lanes);
      const int major = transposed ? channel : row, minor = transposed ? row : channel;
      const int width = transposed ? padded_rows : padded_channels;
      for (int g = 0; g < 8; ++g)
        store_halves(target + static_cast<size_t>(major + g) * width + minor, lanes[g]);
    }
  }
  return check.all_finite();
}

}  // namespace

bool gather_channels(const HalfRows& rows, int strip_begin, int strip_end, float* values) {
  return rows.bfloat ? gather_channels_of<true>(rows, strip_begin, strip_end, values)
                     : gather_channels_of<false>(rows, strip_begin, strip_end, values);
}

bool gather_tokens(const HalfRows& rows, int strip_begin, int strip_end, float* values) {
  return rows.bfloat ? gather_tokens_of<true>(rows, strip_begin, strip_end, values)
                     : gather_tokens_of<false>(rows, strip_begin, strip_end, values);
}

bool copy_halves(const HalfRows& rows, int padded_rows, int padded_channels, bool transposed,
                 uint16_t* target) {
  return rows.bfloat
             ? copy_halves_of<true>(rows, padded_rows, padded_channels, transposed, target)
             : copy_halves_of<false>(rows, padded_rows, padded_channels, transposed, target);
}

}  // namespace vkv::VKV_ISA
