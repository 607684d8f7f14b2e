// tile_attention.cpp: the tiles of one task in order.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/tile_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "runtime/base/codec.h"

namespace vkv {
namespace {

// What unpack_bytes() takes off a code, so that 8-bit ones fit a signed byte.
float bias_of(Codec codec) { return codec == Codec::kI8 ? 128.0f : 0.0f; }

// A row of weights in planes errs by half a step of 2^-16 a token, relative to its sum: beside a
// token that has most of a tile's weight, that is too much for a tail of a hundred others.
constexpr float kPlaneSumMin = 1.5f;

float middle_of(Codec codec) {
  return 0.5f * static_cast<float>(code_max(bits_of(codec))) - bias_of(codec);
}

// Of scores as logarithms of base two.
float base_two_scale(const AttendItem& item) {
  return static_cast<float>(double{item.scale} * std::numbers::log2e);
}

constexpr size_t kLineBytes = 64;

void prefetch(const std::byte* from, size_t byte_count) {
  for (size_t at = 0; at < byte_count; at += kLineBytes) __builtin_prefetch(from + at);
}

template <class Buffer>
void grow(Buffer& buffer, size_t count) {
  if (buffer.size() < count) buffer.resize(count);
}

const uint16_t* halves_of(const std::byte* bytes) {
  return reinterpret_cast<const uint16_t*>(bytes);
}

}  // namespace

Status TileAttention::attend(const AttendTask& task, const AttendTask* next) {
  begin(task);
  const Status status = add_tokens(task, next);
  if (next == nullptr || !status.ok()) products_.release();
  if (status.ok()) finish(task);
  return status;
}

Status TileAttention::add_tokens(const AttendTask& task, const AttendTask* next) {
  for (size_t i = 0; i < task.blocks.size(); ++i) {
    ahead_ = {};
    const BlockView& block = task.blocks[i];
    const int tiles = (block.token_count + kTileTokens - 1) / kTileTokens;
    if (i + 1 < task.blocks.size())
      look_ahead(task, task.blocks[i + 1], tiles);
    else if (next != nullptr && !next->blocks.empty())
      look_ahead(*next, next->blocks.front(), tiles);
    VKV_TRY(add_block(task, block));
  }
  ahead_ = {};
  return task.open ? add_open(task) : Status();
}

void TileAttention::look_ahead(const AttendTask& task, const BlockView& block, int tile_count) {
  const BlockLayout layout = block_layout(task.item->shape, block);
  if (block.headers != nullptr)
    prefetch(block.headers + layout.header_of(task.kv_head), layout.head_header);
  const auto* begin = reinterpret_cast<const char*>(block.payload + layout.k_of(task.kv_head));
  const size_t byte_count = layout.k_payload + layout.v_payload;
  // Each row steps some three times, and each product eight or sixteen times.
  const bool halves = is_16_bit(block.k_codec) || is_16_bit(block.v_codec);
  const int steps = tile_count * ((halves ? 2 : 3) * rows_ + (halves ? 32 : 8));
  const int lines = static_cast<int>(byte_count / kLineBytes);
  ahead_ = {begin, begin + byte_count, lines / steps + 1};
}

void TileAttention::begin(const AttendTask& task) {
  const AttendItem& item = *task.item;
  const int group = item.shape.group();
  const int rows = (task.query_end - task.query_begin) * group;
  const int channels = padded_channels(item.shape.head_dim);
  rows_ = rows;
  channels_ = channels;
  key_header_ = nullptr;
  ++q_version_;

  const size_t width = static_cast<size_t>(channels);
  const size_t row_room = static_cast<size_t>(round_up(rows, kRowRoom));
  const size_t plane_room = static_cast<size_t>(round_up(2 * rows, kRowRoom));
  grow(q_.values, row_room * width);
  q_.has_wide = rotated_q_.has_wide = has_rotated_q_ = false;
  grow(scaled_q_, row_room * width);
  grow(q_planes_, plane_room * width + kLineBytes);
  grow(sums_, plane_room * std::max<size_t>(kTileTokens, width));
  grow(scores_, row_room * kTileTokens);
  grow(weight_planes_, plane_room * kTileTokens + kLineBytes);
  for (Buffer<float>* buffer : {&scale_, &value_scale_, &value_zero_, &byte_zero_})
    grow(*buffer, width);
  grow(zero_, width);
  grow(half_beta_, row_room);
  for (Buffer<float>* buffer : {&q_step_, &tile_max_, &tile_sum_, &keep_, &weight_, &zero_sum_})
    grow(*buffer, row_room);
  for (Buffer<float>* buffer : {&token_scale_, &token_zero_}) grow(*buffer, kTileTokens);
  ones_.resize(std::max(ones_.size(), width), 1.0f);
  grow(q_beta_, row_room);
  visible_.assign(row_room, 0);
  grow(out_, row_room * width);
  std::fill_n(out_.begin(), static_cast<size_t>(rows) * width, 0.0f);
  max_.assign(row_room, -std::numeric_limits<double>::infinity());
  sum_.assign(row_room, 0.0f);

  const size_t head_dim = static_cast<size_t>(item.shape.head_dim);
  const bool reads_halves =
      (task.open && item.open.token_count > 0) ||
      std::any_of(task.blocks.begin(), task.blocks.end(),
                  [](const BlockView& block) { return is_16_bit(block.k_codec); });
  for (int row = 0; row < rows; ++row) {
    const int query = task.query_begin + row / group;
    const int q_head = task.kv_head * group + row % group;
    const float* source =
        item.q + (static_cast<size_t>(query) * item.shape.q_heads + q_head) * head_dim;
    float* const target = &q_.values[static_cast<size_t>(row) * width];
    std::copy_n(source, head_dim, target);
    std::fill_n(target + head_dim, width - head_dim, 0.0f);
    half_beta_[row] = 0;
    for (size_t c = 0; reads_halves && item.k_mean != nullptr && c < head_dim; ++c)
      half_beta_[row] -= double{source[c]} * double{item.k_mean[task.kv_head * head_dim + c]};
  }
}

void TileAttention::finish(const AttendTask& task) {
  const AttendItem& item = *task.item;
  const int group = item.shape.group();
  const size_t head_dim = static_cast<size_t>(item.shape.head_dim);
  for (int row = 0; row < rows_; ++row) {
    const int query = task.query_begin + row / group;
    const int q_head = task.kv_head * group + row % group;
    const size_t target = static_cast<size_t>(query) * item.shape.q_heads + q_head;
    const float* source = &out_[static_cast<size_t>(row) * channels_];
    const bool empty = sum_[row] == 0.0f;
    if (empty)
      std::fill_n(task.out + target * head_dim, head_dim, 0.0f);
    else
      functions_.divide_row(source, item.shape.head_dim, sum_[row], task.out + target * head_dim);
    task.lse[target] =
        empty ? -std::numeric_limits<float>::infinity()
              : static_cast<float>(max_[row] * std::numbers::ln2 + std::log(double{sum_[row]}));
  }
}

bool TileAttention::as_bytes(Codec codec) const { return codec != Codec::kI8 || exact_8_bit_; }

void TileAttention::load_key_header(const AttendTask& task, const BlockView& block,
                                    const std::byte* header) {
  if (header == key_header_) return;  // a segment shares it
  key_header_ = header;
  const Queries& q = queries_for(task, block);
  const float bias = as_bytes(block.k_codec) ? bias_of(block.k_codec) : 0.0f;
  functions_.load_key_scales(halves_of(header), channels_, bias, scale_.data(), zero_.data());
  if (!block.centred && task.item->k_mean != nullptr) {
    const int head_dim = task.item->shape.head_dim;
    const float* mean = task.item->k_mean + static_cast<size_t>(task.kv_head) * head_dim;
    for (int c = 0; c < head_dim; ++c) zero_[c] -= double{mean[c]};
  }
  if (!as_bytes(block.k_codec)) {
    functions_.scale_queries(q.values.data(), q.wide.data(), rows_, channels_, scale_.data(),
                             zero_.data(), scaled_q_.data(), q_beta_.data());
    return;
  }
  functions_.make_query_planes(q.values.data(), q.wide.data(), rows_, channels_, scale_.data(),
                               zero_.data(), middle_of(block.k_codec),
                               {q_planes_.data(), q_step_.data(), q_beta_.data(), &ahead_});
}

const TileAttention::Queries& TileAttention::queries_for(const AttendTask& task,
                                                         const BlockView& block) {
  Queries& q = block.k_rotated ? rotated_q_ : q_;
  if (block.k_rotated && !has_rotated_q_) {
    q.values = q_.values;
    has_rotated_q_ = true;
    functions_.rotate_rows(q.values.data(), rows_, channels_, task.item->shape.head_dim);
  }
  if (!q.has_wide) {
    const int count = rows_ * channels_;
    grow(q.wide, static_cast<size_t>(count));
    functions_.widen_row(q.values.data(), count, q.wide.data());
    q.has_wide = true;
  }
  return q;
}

void TileAttention::load_token_scales(const std::byte* scales, int block_tokens, int token,
                                      int tokens) {
  const uint16_t* halves = halves_of(scales) + token;
  functions_.floats_from_halves(halves, tokens, token_scale_.data());
  functions_.floats_from_halves(halves + block_tokens, tokens, token_zero_.data());
}

void TileAttention::load_value_header(const BlockView& block, const std::byte* scales) {
  functions_.load_value_scales(halves_of(scales), channels_, bias_of(block.v_codec),
                               value_scale_.data(), value_zero_.data(), byte_zero_.data());
}

Status TileAttention::add_block(const AttendTask& task, const BlockView& block) {
  const AttendItem& item = *task.item;
  const float factor = base_two_scale(item);
  const BlockLayout layout = block_layout(item.shape, block);
  const std::byte* header = block.headers + layout.header_of(task.kv_head);
  const std::byte* k = block.payload + layout.k_of(task.kv_head);
  const std::byte* v = block.payload + layout.v_of(task.kv_head);
  const bool k_coded = !is_16_bit(block.k_codec), v_coded = !is_16_bit(block.v_codec);
  const std::byte* v_scales = v_coded ? block.headers + layout.v_scales_of(task.kv_head) : nullptr;
  if (k_coded) load_key_header(task, block, header);
  if (v_coded && !block.v_per_token) load_value_header(block, v_scales);

  for (int token = 0; token < block.token_count; token += kTileTokens) {
    const int token_count = std::min(kTileTokens, block.token_count - token);
    const int tokens = padded_tokens(token_count);
    live_ = block.live == nullptr ? nullptr : block.live + token / 32;
    if (live_ != nullptr &&
        std::all_of(live_, live_ + tokens / 32, [](uint32_t w) { return w == 0; }))
      continue;  // a softmax over nothing has no maximum
    std::fill_n(visible_.begin(), rows_, token_count);
    if (k_coded) {
      VKV_TRY(score_codes(block.k_codec,
                          {.payload = k,
                           .bits = bits_of(block.k_codec),
                           .columns = channels_,
                           .row_begin = token,
                           .row_end = token + tokens,
                           .column_begin = 0,
                           .column_end = channels_,
                           .ahead = &ahead_},
                          factor));
    } else {
      VKV_TRY(score_halves({.values = halves_of(k) + static_cast<size_t>(token) * channels_,
                            .row_stride = static_cast<size_t>(channels_),
                            .row_count = tokens,
                            .column_count = channels_,
                            .padded_columns = channels_,
                            .bfloat = block.k_codec == Codec::kBf16,
                            .ahead = &ahead_},
                           factor));
    }
    const bool bytes = weigh(tokens, v_coded && !block.v_per_token && as_bytes(block.v_codec),
                             k_coded ? q_beta_.data() : half_beta_.data(), factor);
    if (v_coded) {
      const CodeTile tile = {.payload = v,
                             .bits = bits_of(block.v_codec),
                             .columns = layout.tokens,
                             .row_begin = 0,
                             .row_end = channels_,
                             .column_begin = token,
                             .column_end = token + tokens,
                             .ahead = &ahead_};
      if (block.v_per_token) {
        load_token_scales(v_scales, layout.tokens, token, tokens);
        VKV_TRY(add_token_scaled_values(tile));
      } else {
        VKV_TRY(add_code_values(tile, bytes));
      }
    } else {
      VKV_TRY(add_half_values({.values = halves_of(v) + token,
                               .row_stride = static_cast<size_t>(layout.tokens),
                               .row_count = channels_,
                               .column_count = tokens,
                               .padded_columns = tokens,
                               .bfloat = block.v_codec == Codec::kBf16,
                               .ahead = &ahead_},
                              /*transposed=*/true));
    }
  }
  return {};
}

Status TileAttention::add_open(const AttendTask& task) {
  const AttendItem& item = *task.item;
  const float factor = base_two_scale(item);
  live_ = nullptr;
  const int group = item.shape.group();
  const int head_dim = item.shape.head_dim;
  const size_t stride = static_cast<size_t>(item.shape.kv_heads) * head_dim;
  const size_t head_offset = static_cast<size_t>(task.kv_head) * head_dim;
  const bool bfloat = item.open.codec == Codec::kBf16;
  const auto sees = [&](int query) {  // this many open tokens
    return item.causal ? item.open.token_count - item.q_len + query + 1 : item.open.token_count;
  };
  // Tiles that lie in the future of every query of the task are skipped.
  const int token_end = sees(task.query_end - 1);
  for (int token = 0; token < token_end; token += kTileTokens) {
    const int token_count = std::min(kTileTokens, token_end - token);
    for (int row = 0; row < rows_; ++row)
      visible_[row] = std::clamp(sees(task.query_begin + row / group) - token, 0, token_count);
    const size_t offset = static_cast<size_t>(token) * stride + head_offset;
    HalfTile tile = {.values = item.open.k + offset,
                     .row_stride = stride,
                     .row_count = token_count,
                     .column_count = head_dim,
                     .padded_columns = channels_,
                     .bfloat = bfloat};
    VKV_TRY(score_halves(tile, factor));
    (void)weigh(padded_tokens(token_count), /*bytes=*/false, half_beta_.data(), factor);
    tile.values = item.open.v + offset;
    VKV_TRY(add_half_values(tile, /*transposed=*/false));
  }
  return {};
}

Status TileAttention::score_codes(Codec codec, const CodeTile& tile, float factor) {
  const int tokens = tile.row_end - tile.row_begin;
  if (!as_bytes(codec)) {
    VKV_TRY(products_.multiply_codes(tile, Rows<const float>{scaled_q_.data(), rows_, channels_},
                                     scores()));
    functions_.scale_scores(scores_.data(), rows_, tokens, factor);
    return {};
  }
  VKV_TRY(products_.multiply_codes(tile,
                                   {q_planes_.data(), 2 * rows_, channels_, /*is_signed=*/true},
                                   Rows<int32_t>{sums_.data(), 2 * rows_, kTileTokens}));
  functions_.scores_from_planes(sums_.data(), rows_, tokens, q_step_.data(), factor,
                                scores_.data());
  return {};
}

Status TileAttention::score_halves(const HalfTile& tile, float factor) {
  VKV_TRY(
      products_.multiply_halves(tile, {q_.values.data(), rows_, channels_}, q_version_, scores()));
  functions_.scale_scores(scores_.data(), rows_, padded_tokens(tile.row_count), factor);
  return {};
}

void TileAttention::set_dead(int tokens, float value) {
  for (int t = 0; t < tokens; ++t) {
    if (live_[t / 32] >> t % 32 & 1u) continue;
    for (int row = 0; row < rows_; ++row)
      scores_[static_cast<size_t>(row) * kTileTokens + t] = value;
  }
}

bool TileAttention::weigh(int tokens, bool bytes, const double* beta, float factor) {
  // A score of -inf leaves a weight of next to nothing: none in planes, and set to zero in fp32.
  if (live_ != nullptr) set_dead(tokens, -std::numeric_limits<float>::infinity());
  const TileWeights weights = tile_weights(tokens);
  if (bytes) {
    functions_.softmax_planes(weights);
    for (int row = 0; row < rows_; ++row)
      bytes = bytes && (visible_[row] == 0 || tile_sum_[row] >= kPlaneSumMin);
  }
  if (!bytes) functions_.softmax_floats(weights);
  if (!bytes && live_ != nullptr) set_dead(tokens, 0.0f);

  functions_.join_tile(weights, beta, factor,
                       {max_.data(), sum_.data(), keep_.data(), weight_.data()});
  return bytes;
}

Status TileAttention::add_code_values(const CodeTile& tile, bool bytes) {
  if (!bytes) {
    VKV_TRY(products_.multiply_codes(tile, weights(), float_sums()));
    functions_.add_products(float_sums().values, output(value_scale_.data(), value_zero_.data()));
    return {};
  }
  VKV_TRY(products_.multiply_codes(
      tile, {weight_planes_.data(), 2 * rows_, kTileTokens, /*is_signed=*/false},
      Rows<int32_t>{sums_.data(), 2 * rows_, channels_}));
  functions_.add_plane_products(sums_.data(), output(value_scale_.data(), byte_zero_.data()));
  return {};
}

// sum of p (s c + z) = sum of (p s) c + sum of p z, the second alike in all channels.
Status TileAttention::add_token_scaled_values(const CodeTile& tile) {
  functions_.scale_weights(tile_weights(tile.column_end - tile.column_begin),
                           {token_scale_.data(), token_zero_.data(), zero_sum_.data()});
  VKV_TRY(products_.multiply_codes(tile, weights(), float_sums()));
  TileOutput target = output(ones_.data(), ones_.data());
  target.sum = zero_sum_.data();
  functions_.add_products(float_sums().values, target);
  return {};
}

Status TileAttention::add_half_values(const HalfTile& tile, bool transposed) {
  if (transposed)
    VKV_TRY(products_.multiply_halves(tile, weights(), /*rows_version=*/0, float_sums()));
  else
    VKV_TRY(products_.multiply_transposed(tile, weights(), float_sums()));
  functions_.add_products(float_sums().values, output(nullptr, nullptr));
  return {};
}

TileWeights TileAttention::tile_weights(int tokens) {
  return {rows_,
          visible_.data(),
          tokens,
          scores_.data(),
          weight_planes_.data(),
          tile_max_.data(),
          tile_sum_.data(),
          &ahead_};
}

TileOutput TileAttention::output(const float* scale, const float* zero) {
  return {rows_, channels_, keep_.data(), weight_.data(), tile_sum_.data(),
          scale, zero,      out_.data(),  &ahead_};
}

}  // namespace vkv
