// tile_functions.h: the loops around the matrix products of attention, one set per instruction set.
// SPDX-License-Identifier: Apache-2.0
//
// A tile is up to 128 tokens of one KV head; rows are (query, query head) pairs that share it.
// Matrix products are [m, k] x [k, n] with n in panels of 64, as oneDNN's micro-kernels take them:
//
//   bytes   panel p, word (k / 4) * 64 + n % 64 holds k .. k + 3 of column n, p = n / 64
//   fp32    panel p, float k * 64 + n % 64
//
// Scores have k = channels and n = tokens, the product with V has k = tokens and n = channels; both
// n and k are padded to 32 with values that do not reach a result.
//
// The sources behind this header are compiled once per instruction set, in a namespace each, and
// include nothing that could leave an inline function for the linker to share between them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vkv {

inline constexpr int kPanelWidth = 64;
inline constexpr int kTileTokens = 128;
inline constexpr int kPlaneSteps =
    65534;  // the tile's largest weight; one step is left for rounding
inline constexpr int kQuerySteps = 127 * 257;  // the largest |q * s| of a row: 127 in both planes

// Bytes that will be read soon: each step of other work asks the memory for some of them, so that
// it is never idle and never asked for all at once. A core of a server has some 16 lines in flight
// to its first cache; the neighbours that the second fetches by itself come on top.
struct Ahead {
  const char* next;
  const char* end;
  int step_lines;
};

// Rows and columns of a packed matrix of codes (runtime/base/block_format.h); ranges in 32s.
struct CodeTile {
  const void* payload;
  int bits;
  int columns;  // of the whole matrix
  int row_begin, row_end;
  int column_begin, column_end;
  Ahead* ahead = nullptr;  // stepped on the way, if there is one
};

// Row-major rows of bytes that meet codes: those of queries are signed, those of weights are not.
struct ByteRows {
  const uint8_t* bytes;
  int count;
  int stride;  // bytes
  bool is_signed;
};

// Row-major 16-bit values. `row_count` may be any number; columns in 8s.
struct HalfTile {
  const uint16_t* values;
  size_t row_stride;  // values
  int row_count;
  int column_count;
  int padded_columns;      // from column_count on: zeros
  bool bfloat;             // else fp16
  Ahead* ahead = nullptr;  // stepped on the way, if there is one
};

// Rows of q against the scales of a block: planes of signed bytes whose products with codes, 256
// times the high ones' and the low ones', are q * s * code in steps of step[row].
struct QueryPlanes {
  uint8_t* planes;  // [2 * rows, channels]: high bytes, low bytes
  float* step;      // [rows]
  double* beta;     // [rows]: what codes do not see, to be added to the unscaled score
  Ahead* ahead;     // stepped a row
};

// One tile's softmax weights 2^(score - max of the row): scores and maxima are in logarithms of
// base two, that is multiplied by log2(e) with all else that scales them.
struct TileWeights {
  int rows;
  const int* visible;  // [rows]: the row sees the tile's first tokens, this many
  int tokens;          // padded to 32; weights from visible[row] on are 0
  float* scores;       // [rows, kTileTokens]; fp32 weights replace them
  uint8_t* planes;     // [2 * rows, kTileTokens]: high bytes, low bytes
  float* max;          // [rows]; -inf where nothing is visible
  float* sum;          // [rows]: of the weights as they were rounded
  Ahead* ahead;        // stepped a row
};

// out = keep * out + weight * (s * product + z * sum), a row at a time.
struct TileOutput {
  int rows;
  int channels;
  const float* keep;    // [rows]
  const float* weight;  // [rows]
  const float* sum;     // [rows]
  const float* scale;   // [channels]; nullptr: 1, with zero nullptr: 0
  const float* zero;    // [channels]
  float* out;           // [rows, channels]
  Ahead* ahead;         // stepped a row
};

// What all tiles so far came to, [rows] each; keep and weight are what TileOutput takes.
struct RunningSums {
  double* max;  // of scores; -inf at first
  float* sum;   // of weights relative to it
  float* keep;
  float* weight;
};

// A tile's weights against V per token: each becomes weight * scale of its token.
struct TokenScales {
  const float* scale;  // [tokens]
  const float* zero;   // [tokens]
  float* zero_sum;     // [rows]: sum of weight * zero
};

struct TileFunctions {
  // values[i] of fp16 bits; count in 32s.
  void (*floats_from_halves)(const uint16_t* halves, int count, float* values);

  // A key header's halves, and a value header's: scales, then zeros. zero and byte_zero are those
  // of codes without `bias`: code * scale + zero = (code - bias) * scale + byte_zero.
  void (*load_key_scales)(const uint16_t* halves, int channels, float bias, float* scale,
                          double* byte_zero);
  void (*load_value_scales)(const uint16_t* halves, int channels, float bias, float* scale,
                            float* zero, float* byte_zero);

  // n = rows of the matrix, k = columns. 8-bit codes become code - 128, the others stay.
  void (*unpack_bytes)(const CodeTile& tile, uint8_t* panels);
  void (*unpack_floats)(const CodeTile& tile, float* panels);
  // n = rows, k = columns: K as stored, V as stored in blocks.
  void (*transpose_halves)(const HalfTile& tile, float* panels);
  // k = rows, n = columns: V of open tokens.
  void (*convert_halves)(const HalfTile& tile, float* panels);
  // Products of signed bytes where the unsigned ones alone are multiplied: bytes + 128, `count` of
  // them in 32s; and products [row_count, n] of those, less 128 times code_sums [n]; n in 32s.
  void (*make_unsigned)(const uint8_t* bytes, size_t count, uint8_t* target);
  void (*subtract_code_sums)(const int32_t* products, const int32_t* code_sums, int row_count,
                             int row_stride, int n, int32_t* target, int target_stride);

  // products[m][n] = sum over k of rows[m][k] * value[n][k], without a panel; n is padded to 32 by
  // zeros. row_stride, product_stride: values.
  void (*dot_halves)(const HalfTile& tile, const float* rows, int row_count, int row_stride,
                     float* products, int product_stride);
  // products[m][k] = sum over n of rows[m][n] * value[n][k], without a panel; k is padded to 32.
  void (*sum_halves)(const HalfTile& tile, const float* rows, int row_count, int row_stride,
                     float* products, int product_stride);

  // Rows of H q: hadamard() of runtime/base/hadamard.h over the first head_dim channels.
  void (*rotate_rows)(float* values, int rows, int channels, int head_dim);
  // q: [rows, channels], wide_q the same in double precision; scale and zero: [channels], of the
  // codes as they were unpacked; code_middle: of their range.
  void (*make_query_planes)(const float* q, const double* wide_q, int rows, int channels,
                            const float* scale, const double* zero, float code_middle,
                            const QueryPlanes& planes);
  // beta[row] = q.zero; scaled: q * scale, both for codes in fp32.
  void (*scale_queries)(const float* q, const double* wide_q, int rows, int channels,
                        const float* scale, const double* zero, float* scaled, double* beta);

  // products: [2 * rows, kTileTokens] of query planes and codes -> scores, times `factor`.
  void (*scores_from_planes)(const int32_t* products, int rows, int tokens, const float* step,
                             float factor, float* scores);
  void (*scale_scores)(float* scores, int rows, int tokens, float factor);

  void (*softmax_floats)(const TileWeights& weights);  // does not touch planes
  void (*softmax_planes)(const TileWeights& weights);

  // After either: a tile's maxima and sums into the running ones. beta: [rows].
  void (*join_tile)(const TileWeights& weights, const double* beta, float factor,
                    const RunningSums& running);

  // wide[i] = values[i]; target[i] = values[i] / divisor. count in 8s.
  void (*widen_row)(const float* values, int count, double* wide);
  void (*divide_row)(const float* values, int count, float divisor, float* target);

  // weights: as softmax_floats() leaves them; scores are replaced.
  void (*scale_weights)(const TileWeights& weights, const TokenScales& scales);

  // products: [2 * rows, channels] of weight planes and codes, in steps of 1 / kPlaneSteps.
  void (*add_plane_products)(const int32_t* products, const TileOutput& output);
  void (*add_products)(const float* products, const TileOutput& output);  // [rows, channels]
};

// Each set may be used only where the CPU has the instructions.
namespace avx2 {  // and FMA, F16C
const TileFunctions& tile_functions();
}
namespace avx512 {  // F, BW, DQ, VL
const TileFunctions& tile_functions();
}

}  // namespace vkv
