// encode.cpp: gathers strips of channels, finds their scales, packs their codes.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/encode.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/channel_statistics.h"
#include "cpu/check.h"
#include "cpu/parallel.h"
#include "runtime/base/codec.h"

namespace vkv {
namespace {

enum class Part { kK, kV };

// K or V of one KV head of one item: what one task encodes.
struct HeadPart {
  const EncodeItem& item;
  Part part;
  int kv_head;

  Codec codec() const { return part == Part::kK ? item.k_codec : item.v_codec; }
  int channels() const { return padded_channels(item.shape.head_dim); }
  int row_count() const { return static_cast<int>(item.rows.size()); }

  uint16_t source_bits(int row, int channel) const {
    const uint16_t* source = part == Part::kK ? item.source.k : item.source.v;
    const size_t token = item.rows[static_cast<size_t>(row)];
    const size_t head = token * static_cast<size_t>(item.shape.kv_heads) + kv_head;
    return source[head * static_cast<size_t>(item.shape.head_dim) + channel];
  }

  const float* mean() const {
    const bool centred = part == Part::kK && item.k_mean != nullptr;
    return centred ? item.k_mean + static_cast<size_t>(kv_head) * item.shape.head_dim : nullptr;
  }

  Status error(int channel, const std::string& reason) const {
    return {Code::kInvalidArgument, std::string(part == Part::kK ? "K" : "V") + " of KV head " +
                                        std::to_string(kv_head) + ", channel " +
                                        std::to_string(channel) + " " + reason};
  }
};

// values: [row_count, kStripChannels], relative to the mean; channels past head_dim are 0.
Status gather_strip(const HeadPart& head, int channel_begin, float* values) {
  const int width = std::min(kStripChannels, head.item.shape.head_dim - channel_begin);
  const float* mean = head.mean();
  for (int row = 0; row < head.row_count(); ++row) {
    float* x = values + static_cast<size_t>(row) * kStripChannels;
    bool finite = true;
    for (int c = 0; c < width; ++c) {
      x[c] = float_from_16_bit(head.item.source.codec, head.source_bits(row, channel_begin + c));
      if (mean != nullptr) x[c] -= mean[channel_begin + c];
      finite = finite && is_finite(x[c]);
    }
    for (int c = std::max(width, 0); c < kStripChannels; ++c) x[c] = 0.0f;
    for (int c = 0; !finite && c < width; ++c)
      if (!is_finite(x[c]))
        return head.error(channel_begin + c, "holds a value that is not finite");
  }
  return {};
}

Status check_strip_header(const HeadPart& head, int channel_begin, const StripHeader& header) {
  for (int c = 0; c < kStripChannels; ++c)
    if ((header.scale[c] & kHalfInf) == kHalfInf || (header.zero[c] & kHalfInf) == kHalfInf)
      return head.error(channel_begin + c,
                        "has a range too large for fp16 scales and zeros; store it at 16 bit");
  return {};
}

// A KV head's header is s_k z_k s_v z_v, [channels] each: this is where s of the part begins.
uint16_t* scales_of(const HeadPart& head, std::byte* headers) {
  const size_t header = size_t{8} * static_cast<size_t>(head.channels());
  const size_t offset = head.part == Part::kK ? 0 : header / 2;
  return reinterpret_cast<uint16_t*>(headers + static_cast<size_t>(head.kv_head) * header + offset);
}

void store_strip_header(const HeadPart& head, int channel_begin, const StripHeader& header,
                        std::byte* headers) {
  uint16_t* scales = scales_of(head, headers) + channel_begin;
  std::copy_n(header.scale, kStripChannels, scales);
  std::copy_n(header.zero, kStripChannels, scales + head.channels());
}

StripHeader load_strip_header(const HeadPart& head, int channel_begin, const std::byte* headers) {
  const uint16_t* scales = scales_of(head, const_cast<std::byte*>(headers)) + channel_begin;
  StripHeader header;
  std::copy_n(scales, kStripChannels, header.scale);
  std::copy_n(scales + head.channels(), kStripChannels, header.zero);
  return header;
}

// Adds the codes of a strip to a zeroed payload. K rows are tokens, V rows are channels.
template <int kBits>
void pack_strip(const HeadPart& head, int channel_begin, const uint8_t* codes, std::byte* payload) {
  const bool is_k = head.part == Part::kK;
  const int columns = is_k ? head.channels() : padded_tokens(head.row_count());
  uint32_t* words = reinterpret_cast<uint32_t*>(payload);
  for (int token = 0; token < head.row_count(); ++token) {
    for (int c = 0; c < kStripChannels; ++c) {
      const int channel = channel_begin + c;
      const CodePosition at =
          code_position(kBits, columns, is_k ? token : channel, is_k ? channel : token);
      words[at.word] |= static_cast<uint32_t>(codes[token * kStripChannels + c]) << at.bit;
    }
  }
}

void pack_strip(const HeadPart& head, int channel_begin, const uint8_t* codes, std::byte* payload) {
  switch (bits_of(head.codec())) {
    case 8:
      return pack_strip<8>(head, channel_begin, codes, payload);
    case 4:
      return pack_strip<4>(head, channel_begin, codes, payload);
    case 2:
      return pack_strip<2>(head, channel_begin, codes, payload);
    default:
      return pack_strip<1>(head, channel_begin, codes, payload);
  }
}

Status encode_codes(const HeadPart& head, std::byte* headers, std::byte* payload) {
  const EncodeItem& item = head.item;
  const size_t strip_values = static_cast<size_t>(head.row_count()) * kStripChannels;
  std::vector<float> values(strip_values);
  std::vector<uint8_t> codes(strip_values);
  // Channels past head_dim stay as the record was zeroed: scale, zero and code 0.
  for (int channel = 0; channel < item.shape.head_dim; channel += kStripChannels) {
    VKV_TRY(gather_strip(head, channel, values.data()));
    StripHeader header;
    if (item.shared_headers != nullptr) {
      header = load_strip_header(head, channel, item.shared_headers);
    } else {
      header = strip_header(head.codec(), values.data(), head.row_count());
      VKV_TRY(check_strip_header(head, channel, header));
      store_strip_header(head, channel, header, headers);
    }
    strip_codes(head.codec(), header, values.data(), head.row_count(), codes.data());
    pack_strip(head, channel, codes.data(), payload);
  }
  return {};
}

// 16 bit: K row-major, V transposed; never relative to the mean.
Status encode_16_bit(const HeadPart& head, std::byte* payload) {
  const EncodeItem& item = head.item;
  uint16_t* target = reinterpret_cast<uint16_t*>(payload);
  const size_t channel_step = head.part == Part::kK ? 1 : padded_tokens(head.row_count());
  const size_t row_step = head.part == Part::kK ? head.channels() : 1;
  for (int row = 0; row < head.row_count(); ++row) {
    for (int channel = 0; channel < item.shape.head_dim; ++channel) {
      uint16_t bits = head.source_bits(row, channel);
      const float value = float_from_16_bit(item.source.codec, bits);
      if (!is_finite(value)) return head.error(channel, "holds a value that is not finite");
      if (item.source.codec != head.codec()) bits = float_to_16_bit(head.codec(), value);
      if (!is_finite(float_from_16_bit(head.codec(), bits)))
        return head.error(channel, "holds a value too large for fp16; store it as BF16");
      target[row * row_step + channel * channel_step] = bits;
    }
  }
  return {};
}

// Writes every byte of the part's header and payload: padding is zero, and packing only sets bits.
Status encode_head_part(const HeadPart& head) {
  const EncodeItem& item = head.item;
  const bool shared = item.shared_headers != nullptr;
  const BlockLayout layout = block_layout(item.shape.kv_heads, item.shape.head_dim, item.k_codec,
                                          item.v_codec, head.row_count(), shared);
  // Nothing lies between or behind the parts, or it would have to be zeroed too.
  VKV_CHECK(layout.record_bytes() ==
            (shared ? 0 : layout.headers_bytes()) + layout.payload_bytes());
  const bool is_k = head.part == Part::kK;
  if (!shared && layout.head_header > 0)
    std::memset(scales_of(head, item.record.data()), 0, layout.head_header / 2);
  std::byte* payload = item.record.data() + layout.payload_offset() +
                       (is_k ? layout.k_of(head.kv_head) : layout.v_of(head.kv_head));
  std::memset(payload, 0, is_k ? layout.k_payload : layout.v_payload);
  if (is_16_bit(head.codec())) return encode_16_bit(head, payload);
  return encode_codes(head, item.record.data(), payload);
}

Status header_of_head_part(const HeadPart& head) {
  if (is_16_bit(head.codec())) return {};
  std::vector<float> values(static_cast<size_t>(head.row_count()) * kStripChannels);
  for (int channel = 0; channel < head.item.shape.head_dim; channel += kStripChannels) {
    VKV_TRY(gather_strip(head, channel, values.data()));
    const StripHeader header = strip_header(head.codec(), values.data(), head.row_count());
    VKV_TRY(check_strip_header(head, channel, header));
    store_strip_header(head, channel, header, head.item.record.data());
  }
  return {};
}

// Measured on one Zen 4 core: 4 (I8) to 11 (I4) ns a value.
double encoding_ns(const EncodeItem& item) {
  return 5.0 * 2.0 * static_cast<double>(item.rows.size()) * item.shape.kv_heads *
         item.shape.head_dim;
}

HeadPart head_part(const EncodeItem& item, size_t index) {
  return {item, index % 2 == 0 ? Part::kK : Part::kV, static_cast<int>(index / 2)};
}

}  // namespace

Status encode_blocks(std::span<const EncodeItem> items) {
  struct Task {
    const EncodeItem* item;
    size_t head_part;
  };
  std::vector<Task> tasks;
  double work_ns = 0;
  for (const EncodeItem& item : items) {
    VKV_TRY(check_encode(item));
    work_ns += encoding_ns(item);
    for (size_t i = 0; i < static_cast<size_t>(item.shape.kv_heads) * 2; ++i)
      tasks.push_back({&item, i});
  }
  return parallel_status(tasks.size(), work_ns, [&](size_t i) {
    return encode_head_part(head_part(*tasks[i].item, tasks[i].head_part));
  });
}

Status encode_segment_headers(const EncodeItem& item) {
  VKV_TRY(check_encode_headers(item));
  if (item.record.empty()) return {};  // K and V are 16 bit
  std::memset(item.record.data(), 0, item.record.size());
  return parallel_status(static_cast<size_t>(item.shape.kv_heads) * 2, encoding_ns(item),
                         [&](size_t i) { return header_of_head_part(head_part(item, i)); });
}

Status mean_of_keys(const KvShape& shape, const OpenTokens& source, std::span<const uint32_t> rows,
                    float* mean) {
  VKV_TRY(check_mean_key(shape, source, rows, mean));
  const EncodeItem item = {.shape = shape, .source = source, .rows = rows};
  return parallel_status(
      static_cast<size_t>(shape.kv_heads), encoding_ns(item) / 4, [&](size_t kv_head) -> Status {
        const HeadPart head = {item, Part::kK, static_cast<int>(kv_head)};
        std::vector<float> values(rows.size() * kStripChannels);
        for (int channel = 0; channel < shape.head_dim; channel += kStripChannels) {
          VKV_TRY(gather_strip(head, channel, values.data()));
          float strip[kStripChannels];
          strip_mean(values.data(), head.row_count(), strip);
          std::copy_n(strip, std::min(kStripChannels, shape.head_dim - channel),
                      mean + kv_head * static_cast<size_t>(shape.head_dim) + channel);
        }
        return {};
      });
}

}  // namespace vkv
