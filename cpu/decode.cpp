// decode.cpp: reads records by code_position() alone, so that it can check faster readers.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/decode.h"

#include <cstring>

#include "runtime/base/codec.h"

namespace vkv {
namespace {

// A stored K (rows are tokens) or V (rows are channels) of one KV head.
struct StoredMatrix {
  Codec codec;
  const std::byte* payload;
  const std::byte* scales;  // s then z, [channels] each; nullptr at 16 bit
  int channels;
  int tokens;  // padded

  float k(int token, int channel) const {
    if (is_16_bit(codec)) return half(payload, token * channels + channel);
    return coded(token, channel, channels, channel);
  }

  float v(int token, int channel) const {
    if (is_16_bit(codec)) return half(payload, channel * tokens + token);
    return coded(channel, token, tokens, channel);
  }

 private:
  float coded(int row, int column, int columns, int channel) const {
    const int bits = bits_of(codec);
    const CodePosition at = code_position(bits, columns, row, column);
    uint32_t word;
    std::memcpy(&word, payload + size_t{4} * at.word, sizeof(word));
    const float code = static_cast<float>(word >> at.bit & static_cast<uint32_t>(code_max(bits)));
    const float scale = float_from_half(load(scales, channel));
    const float zero = float_from_half(load(scales, channels + channel));
    return decode_value(code, zero, scale);
  }

  float half(const std::byte* from, int index) const {
    return float_from_16_bit(codec, load(from, index));
  }

  static uint16_t load(const std::byte* from, int index) {
    uint16_t bits;
    std::memcpy(&bits, from + size_t{2} * static_cast<size_t>(index), sizeof(bits));
    return bits;
  }
};

}  // namespace

void decode_head(const KvShape& shape, const BlockView& block, int kv_head, const float* k_mean,
                 float* k, float* v) {
  const BlockLayout layout =
      block_layout(shape.kv_heads, shape.head_dim, block.k_codec, block.v_codec, block.token_count);
  const std::byte* header =
      layout.head_header == 0 ? nullptr : block.headers + layout.header_of(kv_head);
  const StoredMatrix stored_k = {block.k_codec, block.payload + layout.k_of(kv_head), header,
                                 layout.channels, layout.tokens};
  const StoredMatrix stored_v = {block.v_codec, block.payload + layout.v_of(kv_head),
                                 header == nullptr ? nullptr : header + layout.head_header / 2,
                                 layout.channels, layout.tokens};
  const bool add_mean = block.centred && k_mean != nullptr && !is_16_bit(block.k_codec);
  const float* mean = k_mean == nullptr ? nullptr : k_mean + size_t(kv_head) * shape.head_dim;
  for (int token = 0; token < block.token_count; ++token) {
    for (int channel = 0; channel < shape.head_dim; ++channel) {
      const size_t at = static_cast<size_t>(token) * shape.head_dim + channel;
      k[at] = stored_k.k(token, channel) + (add_mean ? mean[channel] : 0.0f);
      v[at] = stored_v.v(token, channel);
    }
  }
}

}  // namespace vkv
