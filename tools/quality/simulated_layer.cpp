// simulated_layer.cpp: the real cache's order of sealing (runtime/seal.cpp) on fp32 rows.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/simulated_layer.h"

#include <algorithm>

#include "cpu/decode.h"
#include "cpu/encode.h"
#include "cpu/saliency.h"
#include "runtime/base/codec.h"

namespace vkv {
namespace {

constexpr int kSaliencyQueries = 64;  // as in runtime/seal.cpp

class Sealing {
 public:
  Sealing(SimulatedLayer& layer, const SimulatedSeal& seal)
      : layer_(layer),
        seal_(seal),
        options_(*seal.options),
        precision_(precision_of_layer(options_.precision, seal.layer)),
        width_(static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim)) {}

  Status run() {
    VKV_TRY(classify_new());
    const auto block_tokens = static_cast<size_t>(tokens_per_block(options_.shape.head_dim));
    for (const TokenClass token_class : {TokenClass::kHigh, TokenClass::kLow}) {
      std::vector<uint32_t> rows;
      for (uint32_t t = 0; t < layer_.token_count(); ++t)
        if (layer_.classes[t] == token_class && layer_.sealed[t] == 0) rows.push_back(t);
      if (!seal_.ends_window) rows.resize(rows.size() / block_tokens * block_tokens);
      if (rows.empty()) continue;
      const bool low = token_class == TokenClass::kLow;
      const CodecPair& codecs = low ? precision_.low : precision_.high;
      if (low && seal_.scheme->kind != SchemeKind::kCodec)
        through_scheme(rows);
      else
        VKV_TRY(through_codec(rows, codecs, low && options_.precision.segment_headers));
      for (const uint32_t row : rows) layer_.sealed[row] = 1;
    }
    return {};
  }

 private:
  Status classify_new();
  Status find_saliency(std::span<const uint32_t> rows, std::vector<float>& saliency);
  std::vector<float> squared_distances(std::span<const uint32_t> rows) const;
  void through_scheme(std::span<const uint32_t> rows);
  Status through_codec(std::span<const uint32_t> rows, const CodecPair& codecs, bool shared);
  void take_block(const BlockView& view, std::span<const uint32_t> rows);
  void take_middle(const BlockView& view, int head, std::span<const uint32_t> rows);

  // The rows at 16 bit, which is exact as long as they were not sealed.
  struct HalfRows {
    std::vector<uint16_t> k, v;
    std::vector<uint32_t> index;  // 0, 1, ...
    OpenTokens open;
  };
  HalfRows half_rows(std::span<const uint32_t> rows) const;

  void add_bits(std::span<const uint32_t> rows, double bits) {
    for (const uint32_t row : rows)
      layer_.sealed_bits[static_cast<size_t>(seal_.roles[row])] +=
          bits / static_cast<double>(rows.size());
  }

  // Of our own codecs as of the baselines: codes, scales and zero points, without padding.
  double code_bits(const CodecPair& codecs, size_t tokens) const {
    const double per_token_scales = codecs.v_per_token ? 32.0 * options_.shape.kv_heads : 0.0;
    return static_cast<double>(tokens) *
           (static_cast<double>(width_) * (bits_of(codecs.k) + bits_of(codecs.v)) +
            per_token_scales);
  }
  double header_bits(const CodecPair& codecs) const {
    const int parts =
        (is_16_bit(codecs.k) ? 0 : 1) + (is_16_bit(codecs.v) || codecs.v_per_token ? 0 : 1);
    return 32.0 * static_cast<double>(width_) * parts;
  }

  SimulatedLayer& layer_;
  const SimulatedSeal& seal_;
  const CacheOptions& options_;
  const LayerPrecision precision_;
  const size_t width_;
};

Sealing::HalfRows Sealing::half_rows(std::span<const uint32_t> rows) const {
  HalfRows half;
  for (const uint32_t row : rows) {
    half.index.push_back(static_cast<uint32_t>(half.index.size()));
    for (size_t c = row * width_; c < (row + 1) * width_; ++c) {
      half.k.push_back(float_to_16_bit(options_.open_codec, layer_.k[c]));
      half.v.push_back(float_to_16_bit(options_.open_codec, layer_.v[c]));
    }
  }
  half.open = {.codec = options_.open_codec,
               .token_count = static_cast<int>(rows.size()),
               .k = half.k.data(),
               .v = half.v.data()};
  return half;
}

std::vector<float> Sealing::squared_distances(std::span<const uint32_t> rows) const {
  const auto head_dim = static_cast<size_t>(options_.shape.head_dim);
  std::vector<float> distances;
  for (const uint32_t row : rows) {
    for (size_t begin = 0; begin < width_; begin += head_dim) {
      float sum = 0;
      for (size_t c = begin; c < begin + head_dim; ++c) {
        const float difference = layer_.k[row * width_ + c] - layer_.mean[c];
        sum += difference * difference;
      }
      distances.push_back(sum);
    }
  }
  return distances;
}

Status Sealing::find_saliency(std::span<const uint32_t> rows, std::vector<float>& saliency) {
  // The newest tokens come last, and were never sealed: causal as in the cache's open block.
  std::vector<uint32_t> open_rows;
  for (uint32_t t = 0; t < layer_.token_count(); ++t)
    if (layer_.sealed[t] == 0) open_rows.push_back(t);
  const HalfRows half = half_rows(open_rows);
  const int queries = std::min(seal_.q_len, kSaliencyQueries);
  const auto skipped = static_cast<size_t>(seal_.q_len - queries);
  const auto q_heads = static_cast<size_t>(options_.shape.q_heads);
  std::vector<float> scores(open_rows.size());
  VKV_TRY(token_saliency(
      {.shape = options_.shape,
       .scale = seal_.score_scale,
       .q_len = queries,
       .q = seal_.q + skipped * q_heads * static_cast<size_t>(options_.shape.head_dim),
       .lse = seal_.lse + skipped * q_heads,
       .open = half.open,
       .score = scores.data()}));
  for (const uint32_t row : rows) {
    const auto at = std::lower_bound(open_rows.begin(), open_rows.end(), row);
    saliency.push_back(scores[static_cast<size_t>(at - open_rows.begin())]);
  }
  return {};
}

Status Sealing::classify_new() {
  const PrecisionPolicy& policy = options_.precision;
  const auto recent = static_cast<uint32_t>(options_.recent_tokens);
  if (layer_.token_count() <= recent) return {};

  std::vector<uint32_t> rows;
  std::vector<Role> roles;
  std::vector<uint8_t> is_sink;
  bool any_visual = false;
  for (uint32_t t = 0; t < layer_.token_count() - recent; ++t) {
    if (layer_.classes[t] != TokenClass::kUndecided) continue;
    rows.push_back(t);
    roles.push_back(seal_.roles[t]);
    is_sink.push_back(t < static_cast<uint32_t>(policy.sink_tokens) ? 1 : 0);
    any_visual |= roles.back() == Role::kVisual;
  }
  if (rows.empty()) return {};

  const bool encodes = seal_.scheme->kind != SchemeKind::kCodec || !is_16_bit(precision_.low.k) ||
                       !is_16_bit(precision_.high.k);
  if (encodes) {
    if (layer_.mean.empty()) {
      const HalfRows half = half_rows(rows);
      layer_.mean.resize(width_);
      VKV_TRY(mean_of_keys(options_.shape, half.open, half.index, layer_.mean.data(),
                           plain_strip_functions()));
      if (seal_.scheme->kind == SchemeKind::kCodec)
        add_bits(rows, 32.0 * static_cast<double>(width_));
    }
    mark_far_keys(squared_distances(rows), options_.shape.kv_heads, policy.sink_sigmas, is_sink);
  }
  std::vector<float> saliency;
  if (uses_saliency(policy, seal_.layer) && any_visual) VKV_TRY(find_saliency(rows, saliency));
  saliency.resize(rows.size());
  const std::vector<TokenClass> classes = classify(policy,
                                                   {.layer = seal_.layer,
                                                    .token_count = layer_.token_count(),
                                                    .roles = roles,
                                                    .is_sink = is_sink,
                                                    .saliency = saliency},
                                                   layer_.counts);
  for (size_t i = 0; i < rows.size(); ++i) layer_.classes[rows[i]] = classes[i];
  return {};
}

void Sealing::through_scheme(std::span<const uint32_t> rows) {
  const SegmentShape shape = {.rows = static_cast<int>(rows.size()),
                              .kv_heads = options_.shape.kv_heads,
                              .head_dim = options_.shape.head_dim};
  std::vector<float> k, v;
  for (const uint32_t row : rows) {
    const auto begin = static_cast<ptrdiff_t>(row * width_);
    const auto end = begin + static_cast<ptrdiff_t>(width_);
    k.insert(k.end(), layer_.k.begin() + begin, layer_.k.begin() + end);
    v.insert(v.end(), layer_.v.begin() + begin, layer_.v.begin() + end);
  }
  add_bits(rows, round_trip_k(*seal_.scheme, shape, k.data()) +
                     round_trip_v(*seal_.scheme, shape, v.data()));
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(k.data() + i * width_, width_, layer_.k.data() + rows[i] * width_);
    std::copy_n(v.data() + i * width_, width_, layer_.v.data() + rows[i] * width_);
  }
}

Status Sealing::through_codec(std::span<const uint32_t> rows, const CodecPair& codecs,
                              bool shared) {
  const KvShape& shape = options_.shape;
  const HalfRows half = half_rows(rows);
  const float* mean = is_16_bit(codecs.k) || layer_.mean.empty() ? nullptr : layer_.mean.data();
  EncodeItem item = {.shape = shape,
                     .k_codec = codecs.k,
                     .v_codec = codecs.v,
                     .k_rotated = codecs.k_rotated,
                     .v_per_token = codecs.v_per_token,
                     .k_spread = codecs.k_spread,
                     .v_spread = codecs.v_spread,
                     .source = half.open,
                     .k_mean = mean};

  const auto block_tokens = static_cast<size_t>(tokens_per_block(shape.head_dim));
  if (shared) {
    std::vector<HeaderLine>& headers = layer_.headers;
    if (headers.empty() || rows.size() >= block_tokens) {
      const size_t bytes =
          block_layout(shape.kv_heads, shape.head_dim, codecs.k, codecs.v, 1).headers_bytes();
      headers.resize(bytes / sizeof(HeaderLine) + 1);
      item.rows = half.index;
      item.record = {headers.front().bytes, bytes};
      VKV_TRY(encode_segment_headers(item, plain_strip_functions()));
      add_bits(rows, header_bits(codecs));
    }
    item.shared_headers = headers.front().bytes;
  }
  for (size_t first = 0; first < rows.size(); first += block_tokens) {
    const size_t count = std::min(block_tokens, rows.size() - first);
    item.rows = std::span<const uint32_t>(half.index).subspan(first, count);
    const BlockLayout layout = block_layout(item);
    std::vector<HeaderLine> record(layout.record_bytes() / sizeof(HeaderLine));
    item.record = {record.front().bytes, layout.record_bytes()};
    VKV_TRY(encode_blocks({&item, 1}, plain_strip_functions()));
    take_block({.k_codec = codecs.k,
                .v_codec = codecs.v,
                .centred = mean != nullptr,
                .k_rotated = codecs.k_rotated,
                .v_per_token = codecs.v_per_token,
                .token_count = static_cast<int>(count),
                .headers = shared ? item.shared_headers : record.front().bytes,
                .payload = record.front().bytes + layout.payload_offset()},
               rows.subspan(first, count));
    add_bits(rows.subspan(first, count),
             code_bits(codecs, count) + (shared ? 0.0 : header_bits(codecs)));
  }
  return {};
}

void Sealing::take_block(const BlockView& view, std::span<const uint32_t> rows) {
  const auto head_dim = static_cast<size_t>(options_.shape.head_dim);
  std::vector<float> k(rows.size() * head_dim), v(k.size());
  for (int head = 0; head < options_.shape.kv_heads; ++head) {
    decode_head(options_.shape, view, head, layer_.mean.data(), k.data(), v.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t at = rows[i] * width_ + static_cast<size_t>(head) * head_dim;
      std::copy_n(k.data() + i * head_dim, head_dim, layer_.k.data() + at);
      std::copy_n(v.data() + i * head_dim, head_dim, layer_.v.data() + at);
      if (!layer_.k_middle.empty())
        std::copy_n(k.data() + i * head_dim, head_dim, layer_.k_middle.data() + at);
    }
    if (!layer_.k_middle.empty()) take_middle(view, head, rows);
  }
}

// The middle of the levels: what code 1/2 would decode to. Taken from the greatest and the least
// decoded key, which are the two levels wherever a channel uses both; else the key itself.
void Sealing::take_middle(const BlockView& view, int head, std::span<const uint32_t> rows) {
  if (view.k_codec != Codec::kI1) return;
  const auto head_dim = static_cast<size_t>(options_.shape.head_dim);
  for (size_t c = 0; c < head_dim; ++c) {
    const size_t channel = static_cast<size_t>(head) * head_dim + c;
    float low = layer_.k[rows[0] * width_ + channel], high = low;
    for (const uint32_t row : rows) {
      low = std::min(low, layer_.k[row * width_ + channel]);
      high = std::max(high, layer_.k[row * width_ + channel]);
    }
    for (const uint32_t row : rows) layer_.k_middle[row * width_ + channel] = (low + high) / 2;
  }
}

}  // namespace

Status seal_simulated(SimulatedLayer& layer, const SimulatedSeal& seal) {
  return Sealing(layer, seal).run();
}

}  // namespace vkv
