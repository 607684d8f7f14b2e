// tile_attention.h: one worker's attention of a few query rows over all tokens of one item.
// SPDX-License-Identifier: Apache-2.0
//
// Rows are the (query, query head) pairs that share a KV head. Tiles of up to 128 tokens come in
// the item's order: unpack K, multiply, softmax relative to the tile's own maximum, unpack V,
// multiply, and add to the running output as in Milakov and Gimelshein 2018. Codes are multiplied
// as bytes, never decoded: their scales and zeros go into the query and into the output.
#pragma once

#include <tbb/cache_aligned_allocator.h>

#include <span>
#include <vector>

#include "cpu/tile_functions.h"
#include "cpu/tile_products.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// Queries [query_begin, query_end) of one item and KV head, over some of its blocks.
struct AttendTask {
  const AttendItem* item = nullptr;
  int kv_head = 0;
  int query_begin = 0;
  int query_end = 0;
  std::span<const BlockView> blocks;
  bool open = true;      // over the open tokens too
  float* out = nullptr;  // as in AttendItem: all its queries and heads
  float* lse = nullptr;
};

// Not thread-safe: one a worker. Borrows the functions and the products.
class TileAttention {
 public:
  // exact_8_bit: products of 8-bit codes and planes are exact, as those of fewer bits always are.
  TileAttention(const TileFunctions& functions, TileProducts& products, bool exact_8_bit)
      : functions_(functions), products_(products), exact_8_bit_(exact_8_bit) {}

  // Writes the task's rows of out and lse. The item has passed check_attend().
  // Errors: as TileProducts.
  // next: the task that comes then on this thread, so that its first block can be asked for and
  // the matrix unit is kept; nullptr: nobody knows.
  Status attend(const AttendTask& task, const AttendTask* next = nullptr);

 private:
  template <class T>
  using Buffer = std::vector<T, tbb::cache_aligned_allocator<T>>;
  void begin(const AttendTask& task);
  void finish(const AttendTask& task);

  Status add_tokens(const AttendTask& task, const AttendTask* next);
  Status add_block(const AttendTask& task, const BlockView& block);
  // What is to be read after `block`, from a KV head of the next one.
  void look_ahead(const AttendTask& task, const BlockView& block, int tile_count);
  Status add_open(const AttendTask& task);

  // Queries against a block's K header, values' scales from its V header.
  void load_key_header(const AttendTask& task, const BlockView& block, const std::byte* header);
  void load_value_header(const BlockView& block, const std::byte* scales);
  void load_token_scales(const std::byte* scales, int block_tokens, int token, int tokens);
  struct Queries {
    Buffer<float> values;  // [rows, channels]
    Buffer<double> wide;   // the same, once an encoded block has asked for it
    bool has_wide = false;
  };
  // q_, or H q for rotated K.
  const Queries& queries_for(const AttendTask& task, const BlockView& block);
  bool as_bytes(Codec codec) const;

  // 1. Scores of a tile of K into scores_.
  Status score_codes(Codec codec, const CodeTile& tile, float factor);
  Status score_halves(const HalfTile& tile, float factor);
  // 2. Weights, and the running maxima and sums. beta: [rows].
  // Returns whether they are planes of bytes: what was asked for, unless planes are too coarse.
  bool weigh(int tokens, bool bytes, const double* beta, float factor);
  // Scores, or weights in fp32, of the tokens of the tile that do not count.
  void set_dead(int tokens, float value);
  // 3. Weights times V into out_.
  Status add_code_values(const CodeTile& tile, bool bytes);
  Status add_token_scaled_values(const CodeTile& tile);  // by the scales loaded last
  Status add_half_values(const HalfTile& tile, bool transposed);

  Rows<float> scores() { return {scores_.data(), rows_, kTileTokens}; }
  Rows<const float> weights() const { return {scores_.data(), rows_, kTileTokens}; }
  Rows<float> float_sums() { return {reinterpret_cast<float*>(sums_.data()), rows_, channels_}; }
  TileWeights tile_weights(int tokens);
  TileOutput output(const float* scale, const float* zero);

  const TileFunctions& functions_;
  TileProducts& products_;
  const bool exact_8_bit_;

  int rows_ = 0;
  int channels_ = 0;                       // padded to 32
  const uint32_t* live_ = nullptr;         // of the tile's tokens; nullptr: all count
  const std::byte* key_header_ = nullptr;  // which the query planes were made for

  Queries q_;
  uint64_t q_version_ = 0;    // of q_
  Buffer<double> half_beta_;  // [rows]: -q.mean, for 16-bit keys
  Queries rotated_q_;         // H q, once a block has asked for it
  bool has_rotated_q_ = false;
  Buffer<float> scaled_q_;     // [rows, channels]: q * scale, for codes as fp32
  Buffer<uint8_t> q_planes_;   // [2 * rows, channels]
  Buffer<float> q_step_;       // [rows]
  Buffer<double> q_beta_;      // [rows]
  Buffer<float> scale_;        // [channels] of the key header while it is loaded
  Buffer<double> zero_;        // [channels]
  Buffer<float> value_scale_;  // [channels]
  Buffer<float> value_zero_;   // [channels], of codes as they are
  Buffer<float> byte_zero_;    // [channels], of codes as unpack_bytes() leaves them
  Buffer<float> token_scale_;  // [kTileTokens] of V per token
  Buffer<float> token_zero_;   // [kTileTokens]
  Buffer<float> zero_sum_;     // [rows]: of weight * zero of V per token
  Buffer<float> ones_;         // [channels]

  Buffer<int32_t> sums_;           // [2 * rows, kTileTokens] or [2 * rows, channels]
  Buffer<float> scores_;           // [rows, kTileTokens]
  Buffer<uint8_t> weight_planes_;  // [2 * rows, kTileTokens]
  Buffer<int> visible_;            // [rows]
  Buffer<float> tile_max_, tile_sum_, keep_, weight_;  // [rows]

  Buffer<float> out_;   // [rows, channels]
  Buffer<double> max_;  // [rows]: running maximum of the scores
  Buffer<float> sum_;   // [rows]: running sum of weights relative to it
  Ahead ahead_ = {};    // of the next block
};

}  // namespace vkv
