// decode.cpp: reads records by code_position() alone, so that it can check faster readers.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/decode.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/codec.h"
#include "runtime/base/hadamard.h"

namespace vkv {
namespace {

// A stored K (rows are tokens) or V (rows are channels) of one KV head.
struct StoredMatrix {
  Codec codec;
  const std::byte* payload;
  const std::byte* scales;  // s then z, one a channel or one a token; nullptr at 16 bit
  int channels;
  int tokens;      // padded
  bool per_token;  // scales

  float k(int token, int channel) const {
    if (is_16_bit(codec)) return half(payload, token * channels + channel);
    return coded(token, channel, channels, token, channel);
  }

  float v(int token, int channel) const {
    if (is_16_bit(codec)) return half(payload, channel * tokens + token);
    return coded(channel, token, tokens, token, channel);
  }

 private:
  float coded(int row, int column, int columns, int token, int channel) const {
    const int bits = bits_of(codec);
    const CodePosition at = code_position(bits, columns, row, column);
    uint32_t word;
    std::memcpy(&word, payload + size_t{4} * at.word, sizeof(word));
    const float code = static_cast<float>(word >> at.bit & static_cast<uint32_t>(code_max(bits)));
    const int lane = per_token ? token : channel;
    const float scale = float_from_half(load(scales, lane));
    const float zero = float_from_half(load(scales, (per_token ? tokens : channels) + lane));
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

// H is its own inverse. In double precision: this is what faster readers are compared with.
void rotate_back(float* key, int head_dim) {
  double exact[kHeadDimMax];
  std::copy_n(key, head_dim, exact);
  hadamard(exact, head_dim);
  std::copy_n(exact, head_dim, key);
}

}  // namespace

void decode_head(const KvShape& shape, const BlockView& block, int kv_head, const float* k_mean,
                 float* k, float* v) {
  const BlockLayout layout = block_layout(shape, block);
  const bool has_header = layout.head_header > 0;
  const StoredMatrix stored_k = {block.k_codec,
                                 block.payload + layout.k_of(kv_head),
                                 has_header ? block.headers + layout.header_of(kv_head) : nullptr,
                                 layout.channels,
                                 layout.tokens,
                                 /*per_token=*/false};
  const StoredMatrix stored_v = {block.v_codec,
                                 block.payload + layout.v_of(kv_head),
                                 has_header ? block.headers + layout.v_scales_of(kv_head) : nullptr,
                                 layout.channels,
                                 layout.tokens,
                                 block.v_per_token};
  const bool add_mean = block.centred && k_mean != nullptr && !is_16_bit(block.k_codec);
  const float* mean = k_mean == nullptr ? nullptr : k_mean + size_t(kv_head) * shape.head_dim;
  const size_t head_dim = static_cast<size_t>(shape.head_dim);
  for (int token = 0; token < block.token_count; ++token) {
    float* key = k + static_cast<size_t>(token) * head_dim;
    float* value = v + static_cast<size_t>(token) * head_dim;
    for (int channel = 0; channel < shape.head_dim; ++channel) {
      key[channel] = stored_k.k(token, channel);
      value[channel] = stored_v.v(token, channel);
    }
    if (block.k_rotated) rotate_back(key, shape.head_dim);
    for (size_t c = 0; add_mean && c < head_dim; ++c) key[c] += mean[c];
  }
}

}  // namespace vkv
