// encode.cpp: cuts blocks into parts, finds where their bytes lie, and runs the loops over them.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/encode.h"

#include <tbb/cache_aligned_allocator.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cpu/parallel.h"
#include "runtime/base/check.h"
#include "runtime/base/codec.h"

namespace vkv {
namespace {

enum class Part { kK, kV };

// Kept by a thread: a block's values and codes, at most 256 KiB and 64 KiB.
struct Scratch {
  std::vector<float, tbb::cache_aligned_allocator<float>> values;
  std::vector<uint8_t, tbb::cache_aligned_allocator<uint8_t>> codes;

  float* values_of(size_t count) {
    if (values.size() < count) values.resize(count);
    return values.data();
  }
  uint8_t* codes_of(size_t count) {
    if (codes.size() < count) codes.resize(count);
    return codes.data();
  }
};

// K or V of one KV head of one item: what one task encodes, as samples x lanes.
struct HeadPart {
  const EncodeItem& item;
  Part part;
  int kv_head;

  bool is_k() const { return part == Part::kK; }
  Codec codec() const { return is_k() ? item.k_codec : item.v_codec; }
  int bits() const { return bits_of(codec()); }
  float spread() const { return is_k() ? item.k_spread : item.v_spread; }
  int row_count() const { return static_cast<int>(item.rows.size()); }

  // Each token of V has its own scale, or each channel.
  bool lanes_are_tokens() const { return !is_k() && item.v_per_token; }
  int lanes() const {
    return lanes_are_tokens() ? padded_tokens(row_count()) : padded_channels(item.shape.head_dim);
  }
  int samples() const { return lanes_are_tokens() ? item.shape.head_dim : row_count(); }
  int strips() const { return lanes() / kStripLanes; }
  size_t strip_values() const { return static_cast<size_t>(samples()) * kStripLanes; }

  // Values as they are; what K is relative to is left out at 16 bit.
  HalfRows halves() const {
    const size_t head_dim = static_cast<size_t>(item.shape.head_dim);
    const uint16_t* source = is_k() ? item.source.k : item.source.v;
    return {.values = source + static_cast<size_t>(kv_head) * head_dim,
            .row_stride = static_cast<size_t>(item.shape.kv_heads) * head_dim,
            .rows = item.rows.data(),
            .row_count = row_count(),
            .channel_count = item.shape.head_dim,
            .bfloat = item.source.codec == Codec::kBf16,
            .mean = nullptr,
            .rotated = false};
  }

  HalfRows relative_rows() const {
    HalfRows rows = halves();
    if (is_k() && item.k_mean != nullptr)
      rows.mean = item.k_mean + static_cast<size_t>(kv_head) * item.shape.head_dim;
    rows.rotated = is_k() && item.k_rotated;
    return rows;
  }

  std::string name() const {
    return std::string(is_k() ? "K" : "V") + " of KV head " + std::to_string(kv_head);
  }
};

bool gather(const HeadPart& head, int strip_begin, int strip_end, float* values,
            const StripFunctions& loops) {
  return (head.lanes_are_tokens() ? loops.gather_tokens : loops.gather_channels)(
      head.relative_rows(), strip_begin, strip_end, values);
}

// Names the first value that is not finite; without one, rotation made it so.
Status not_finite(const HeadPart& head) {
  HalfRows rows = head.relative_rows();
  for (int c = 0; c < rows.channel_count; ++c) {
    for (int r = 0; r < rows.row_count; ++r) {
      const uint16_t bits = rows.values[rows.rows[r] * rows.row_stride + c];
      float value = float_from_16_bit(head.item.source.codec, bits);
      if (rows.mean != nullptr) value -= rows.mean[c];
      if (!is_finite(value))
        return {Code::kInvalidArgument, head.name() + ", channel " + std::to_string(c) +
                                            " holds a value that is not finite"};
    }
  }
  return {Code::kInvalidArgument,
          head.name() + " has values too large to be rotated; store it at 16 bit"};
}

Status check_strip_header(const HeadPart& head, int strip, const StripHeader& header) {
  for (int i = 0; i < kStripLanes; ++i)
    if ((header.scale[i] & kHalfInf) == kHalfInf || (header.zero[i] & kHalfInf) == kHalfInf)
      return {Code::kInvalidArgument,
              head.name() + (head.lanes_are_tokens() ? ", token " : ", channel ") +
                  std::to_string(strip * kStripLanes + i) +
                  " has a range too large for fp16 scales and zeros; store it at 16 bit"};
  return {};
}

// The scales of the part in [kv_heads] headers; its zeros follow.
uint16_t* scales_of(const HeadPart& head, const BlockLayout& layout, std::byte* headers) {
  return reinterpret_cast<uint16_t*>(
      headers + (head.is_k() ? layout.header_of(head.kv_head) : layout.v_scales_of(head.kv_head)));
}

Status make_strip_header(const HeadPart& head, int strip, const float* values, uint16_t* scales,
                         const StripFunctions& loops) {
  const StripHeader header = loops.strip_header(head.bits(), head.spread(), values, head.samples());
  VKV_TRY(check_strip_header(head, strip, header));
  std::copy_n(header.scale, kStripLanes, scales + strip * kStripLanes);
  std::copy_n(header.zero, kStripLanes, scales + head.lanes() + strip * kStripLanes);
  return {};
}

StripHeader load_strip_header(const HeadPart& head, int strip, const uint16_t* scales) {
  StripHeader header;
  std::copy_n(scales + strip * kStripLanes, kStripLanes, header.scale);
  std::copy_n(scales + head.lanes() + strip * kStripLanes, kStripLanes, header.zero);
  return header;
}

// Writes all of the part's payload and, unless shared, of its header.
Status encode_codes(const HeadPart& head, const BlockLayout& layout, std::byte* payload,
                    const StripFunctions& loops) {
  const EncodeItem& item = head.item;
  thread_local Scratch scratch;
  float* values = scratch.values_of(head.strip_values() * static_cast<size_t>(head.strips()));
  if (!gather(head, 0, head.strips(), values, loops)) return not_finite(head);

  const bool shared = item.shared_headers != nullptr;
  uint16_t* scales = scales_of(
      head, layout, shared ? const_cast<std::byte*>(item.shared_headers) : item.record.data());
  const int padded_samples = round_up(head.samples(), 32);
  const size_t strip_codes = static_cast<size_t>(padded_samples) * kStripLanes;
  uint8_t* codes = scratch.codes_of(strip_codes * static_cast<size_t>(head.strips()));
  for (int strip = 0; strip < head.strips(); ++strip) {
    const float* strip_values = values + head.strip_values() * static_cast<size_t>(strip);
    if (!shared) VKV_TRY(make_strip_header(head, strip, strip_values, scales, loops));
    loops.strip_codes(head.bits(), load_strip_header(head, strip, scales), strip_values,
                      head.samples(), padded_samples,
                      codes + strip_codes * static_cast<size_t>(strip));
  }
  const bool lanes_are_columns = head.is_k() || head.lanes_are_tokens();
  (lanes_are_columns ? loops.pack_lane_columns : loops.pack_lane_rows)(
      head.bits(), codes, head.lanes(), padded_samples, reinterpret_cast<uint32_t*>(payload));
  return {};
}

// From bf16 to fp16 or back: K row-major, V transposed; `target` is zero.
Status convert_halves(const HeadPart& head, const BlockLayout& layout, uint16_t* target) {
  const HalfRows rows = head.halves();
  const size_t row_step = head.is_k() ? layout.channels : 1;
  const size_t channel_step = head.is_k() ? 1 : layout.tokens;
  for (int r = 0; r < rows.row_count; ++r) {
    for (int c = 0; c < rows.channel_count; ++c) {
      const uint16_t bits = rows.values[rows.rows[r] * rows.row_stride + c];
      const float value = float_from_16_bit(head.item.source.codec, bits);
      if (!is_finite(value)) return not_finite(head);
      const uint16_t converted = float_to_16_bit(head.codec(), value);
      if (!is_finite(float_from_16_bit(head.codec(), converted)))
        return {Code::kInvalidArgument, head.name() + ", channel " + std::to_string(c) +
                                            " holds a value too large for fp16; store it as BF16"};
      target[r * row_step + c * channel_step] = converted;
    }
  }
  return {};
}

// Never relative to the mean.
Status encode_16_bit(const HeadPart& head, const BlockLayout& layout, std::byte* payload,
                     const StripFunctions& loops) {
  uint16_t* target = reinterpret_cast<uint16_t*>(payload);
  if (head.codec() == head.item.source.codec) {
    const bool finite = loops.copy_halves(head.halves(), layout.tokens, layout.channels,
                                          /*transposed=*/!head.is_k(), target);
    return finite ? Status() : not_finite(head);
  }
  std::memset(payload, 0, head.is_k() ? layout.k_payload : layout.v_payload);
  return convert_halves(head, layout, target);
}

Status encode_head_part(const HeadPart& head, const StripFunctions& loops) {
  const EncodeItem& item = head.item;
  const BlockLayout layout = block_layout(item);
  // Nothing lies between or behind the parts, or it would have to be zeroed too.
  VKV_CHECK(layout.record_bytes() ==
            (layout.shared_headers ? 0 : layout.headers_bytes()) + layout.payload_bytes());
  std::byte* payload = item.record.data() + layout.payload_offset() +
                       (head.is_k() ? layout.k_of(head.kv_head) : layout.v_of(head.kv_head));
  if (!is_16_bit(head.codec())) return encode_codes(head, layout, payload, loops);
  if (!layout.shared_headers && layout.head_header > 0) {
    const int scales = head.is_k() ? layout.channels : layout.v_scales;
    std::memset(scales_of(head, layout, item.record.data()), 0, size_t{4} * scales);
  }
  return encode_16_bit(head, layout, payload, loops);
}

// A strip at a time: a segment may have tens of thousands of rows.
Status header_of_head_part(const HeadPart& head, const StripFunctions& loops) {
  if (is_16_bit(head.codec())) return {};
  const BlockLayout layout = block_layout(head.item);
  uint16_t* scales = scales_of(head, layout, head.item.record.data());
  Scratch scratch;
  float* values = scratch.values_of(head.strip_values());
  for (int strip = 0; strip < head.strips(); ++strip) {
    if (!gather(head, strip, strip + 1, values, loops)) return not_finite(head);
    VKV_TRY(make_strip_header(head, strip, values, scales, loops));
  }
  return {};
}

// Measured on one Zen 4 core beside other work: 0.35 (I8) to 3 (I2) ns a value.
double encoding_ns(const EncodeItem& item) {
  return 1.5 * 2.0 * static_cast<double>(item.rows.size()) * item.shape.kv_heads *
         item.shape.head_dim;
}

HeadPart head_part(const EncodeItem& item, size_t index) {
  return {item, index % 2 == 0 ? Part::kK : Part::kV, static_cast<int>(index / 2)};
}

}  // namespace

Status encode_blocks(std::span<const EncodeItem> items, const StripFunctions& loops) {
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
    return encode_head_part(head_part(*tasks[i].item, tasks[i].head_part), loops);
  });
}

Status encode_segment_headers(const EncodeItem& item, const StripFunctions& loops) {
  VKV_TRY(check_encode_headers(item));
  if (item.record.empty()) return {};  // K and V are 16 bit
  std::memset(item.record.data(), 0, item.record.size());
  return parallel_status(static_cast<size_t>(item.shape.kv_heads) * 2, encoding_ns(item),
                         [&](size_t i) { return header_of_head_part(head_part(item, i), loops); });
}

Status mean_of_keys(const KvShape& shape, const OpenTokens& source, std::span<const uint32_t> rows,
                    float* mean, const StripFunctions& loops) {
  VKV_TRY(check_mean_key(shape, source, rows, mean));
  const EncodeItem item = {.shape = shape, .k_codec = Codec::kI8, .source = source, .rows = rows};
  return parallel_status(
      static_cast<size_t>(shape.kv_heads), encoding_ns(item) / 4, [&](size_t kv_head) -> Status {
        const HeadPart head = {item, Part::kK, static_cast<int>(kv_head)};
        Scratch scratch;
        float* values = scratch.values_of(head.strip_values());
        for (int channel = 0; channel < shape.head_dim; channel += kStripLanes) {
          const int strip = channel / kStripLanes;
          if (!gather(head, strip, strip + 1, values, loops)) return not_finite(head);
          float strip_mean[kStripLanes];
          loops.strip_mean(values, head.samples(), strip_mean);
          std::copy_n(strip_mean, std::min(kStripLanes, shape.head_dim - channel),
                      mean + kv_head * static_cast<size_t>(shape.head_dim) + channel);
        }
        return {};
      });
}

}  // namespace vkv
