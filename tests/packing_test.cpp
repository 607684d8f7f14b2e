// packing_test: what is packed comes back, for every bit width, head_dim and number of tokens.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "cpu/cpu_features.h"
#include "cpu/strip_functions.h"
#include "cpu/tile_functions.h"
#include "tests/random_tokens.h"

namespace vkv {
namespace {

// codes: [lanes / 16, samples, 16], as the encoder has them.
std::vector<uint8_t> random_codes(int bits, int lanes, int samples) {
  std::mt19937 random(static_cast<uint32_t>(bits * 1000 + lanes + samples));
  std::vector<uint8_t> codes(static_cast<size_t>(lanes) * samples);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
  return codes;
}

void expect_round_trip(const StripFunctions& strips, const TileFunctions& tiles, int bits,
                       int lanes, int samples, bool lane_columns) {
  const std::vector<uint8_t> codes = random_codes(bits, lanes, samples);
  AlignedBytes aligned(codes.size());
  std::memcpy(aligned.data(), codes.data(), codes.size());
  AlignedBytes payload(codes.size() * static_cast<size_t>(bits) / 8, 0xff);
  (lane_columns ? strips.pack_lane_columns : strips.pack_lane_rows)(
      bits, reinterpret_cast<const uint8_t*>(aligned.data()), lanes, samples,
      reinterpret_cast<uint32_t*>(payload.data()));

  // As attention reads them: k = columns, n = rows, in panels of 64 rows.
  const int rows = lane_columns ? samples : lanes, columns = lane_columns ? lanes : samples;
  AlignedBytes panels(static_cast<size_t>(round_up(rows, kPanelWidth)) * columns);
  tiles.unpack_bytes({payload.data(), bits, columns, 0, rows, 0, columns},
                     reinterpret_cast<uint8_t*>(panels.data()));
  const uint8_t flip = bits == 8 ? 0x80 : 0;
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      const int lane = lane_columns ? column : row, sample = lane_columns ? row : column;
      const size_t at = static_cast<size_t>(row / kPanelWidth) * columns * kPanelWidth +
                        static_cast<size_t>(column / 4 * kPanelWidth + row % kPanelWidth) * 4 +
                        column % 4;
      ASSERT_EQ(static_cast<uint8_t>(panels.data()[at]) ^ flip,
                codes[(static_cast<size_t>(lane / kStripLanes) * samples + sample) * kStripLanes +
                      lane % kStripLanes])
          << bits << " bits, row " << row << " of " << rows << ", column " << column << " of "
          << columns;
    }
  }
}

TEST(packing, every_code_comes_back_for_every_width_and_shape) {
  for (const int bits : {8, 4, 2, 1}) {
    for (int channels = 32; channels <= 256; channels += 32) {
      for (int tokens = 32; tokens <= 256; tokens += channels <= 64 ? 32 : 96) {
        for (const bool lane_columns : {true, false}) {
          if (cpu_has_avx2()) {
            expect_round_trip(avx2::strip_functions(), avx2::tile_functions(), bits, channels,
                              tokens, lane_columns);
            expect_round_trip(plain_strip_functions(), avx2::tile_functions(), bits, channels,
                              tokens, lane_columns);
          }
          if (cpu_has_avx512())
            expect_round_trip(avx512::strip_functions(), avx512::tile_functions(), bits, channels,
                              tokens, lane_columns);
        }
      }
    }
  }
}

}  // namespace
}  // namespace vkv
