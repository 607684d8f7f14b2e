// rows.cpp: plain loops.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/rows.h"

#include <cstring>

#include "runtime/base/codec.h"

namespace vkv {
namespace {

float load(ElementType element, const void* values, size_t index) {
  if (element == ElementType::kF32) return static_cast<const float*>(values)[index];
  return float_from_16_bit(codec_of(element), static_cast<const uint16_t*>(values)[index]);
}

// Returns the index of the first value that is not finite in `codec`, or `count`.
size_t convert(Codec codec, ElementType element, const void* source, uint16_t* target,
               size_t count) {
  const auto finite = [&](size_t i) { return is_finite(float_from_16_bit(codec, target[i])); };
  bool all_finite = true;
  for (size_t i = 0; i < count; ++i) {
    target[i] = float_to_16_bit(codec, load(element, source, i));
    all_finite &= finite(i);
  }
  size_t bad = all_finite ? count : 0;
  while (bad < count && finite(bad)) ++bad;
  return bad;
}

}  // namespace

std::optional<BadValue> append_rows(std::span<const AppendItem> items) {
  for (size_t i = 0; i < items.size(); ++i) {
    const AppendItem& item = items[i];
    for (const bool of_v : {false, true}) {
      const void* const source = of_v ? item.v : item.k;
      const size_t bad = convert(item.codec, item.element, source,
                                 of_v ? item.v_target : item.k_target, item.value_count);
      if (bad == item.value_count) continue;
      return BadValue{
          .item = i, .of_v = of_v, .index = bad, .value = load(item.element, source, bad)};
    }
  }
  return std::nullopt;
}

void keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept) {
  for (size_t i = 0; i < kept.size(); ++i)
    if (kept[i] != i)
      std::memmove(rows + i * row_values, rows + kept[i] * row_values,
                   row_values * sizeof(uint16_t));
}

void squared_distances(const KvShape& shape, const OpenTokens& source,
                       std::span<const uint32_t> rows, const float* mean,
                       std::span<float> distances) {
  const size_t kv_heads = static_cast<size_t>(shape.kv_heads);
  const size_t head_dim = static_cast<size_t>(shape.head_dim);
  for (size_t i = 0; i < distances.size(); ++i) {
    const size_t head = i % kv_heads;
    const uint16_t* key = source.k + (rows[i / kv_heads] * kv_heads + head) * head_dim;
    float sum = 0;
    for (size_t c = 0; c < head_dim; ++c) {
      const float difference = float_from_16_bit(source.codec, key[c]) - mean[head * head_dim + c];
      sum += difference * difference;
    }
    distances[i] = sum;
  }
}

void to_float(ElementType element, const void* source, float* target, size_t count) {
  for (size_t i = 0; i < count; ++i) target[i] = load(element, source, i);
}

void from_float(ElementType element, const float* source, void* target, size_t count) {
  uint16_t* const out = static_cast<uint16_t*>(target);
  for (size_t i = 0; i < count; ++i) out[i] = float_to_16_bit(codec_of(element), source[i]);
}

}  // namespace vkv
