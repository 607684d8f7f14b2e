// arena_backend.cpp: runs the shared work on the teams.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/arena_backend.h"

#include <cstring>

#include "cpu/encode.h"
#include "cpu/merge.h"
#include "cpu/rows.h"
#include "cpu/saliency.h"

namespace vkv {

ArenaBackend::ArenaBackend(const ThreadPlan& plan, int awake_us, const StripFunctions& loops)
    : loops_(loops), teams_(plan) {
  if (awake_us > 0 || teams_.are_bound())
    crew_ = std::make_unique<Crew>(teams_, std::chrono::microseconds(awake_us));
}

Status ArenaBackend::merge(std::span<const MergeItem> items) {
  return in_arena([&]() -> Status {
    merge_partials(items);
    return {};
  });
}

Status ArenaBackend::encode(std::span<const EncodeItem> items) {
  return in_arena([&] { return encode_blocks(items, loops_); });
}

Status ArenaBackend::encode_headers(const EncodeItem& item) {
  return in_arena([&] { return encode_segment_headers(item, loops_); });
}

Status ArenaBackend::mean_key(const KvShape& shape, const OpenTokens& source,
                              std::span<const uint32_t> rows, float* mean) {
  return in_arena([&] { return mean_of_keys(shape, source, rows, mean, loops_); });
}

Status ArenaBackend::saliency(const SaliencyItem& item) {
  return in_arena([&] { return token_saliency(item); });
}

Status ArenaBackend::squared_distances(const KvShape& shape, const OpenTokens& source,
                                       std::span<const uint32_t> rows, const float* mean,
                                       std::span<float> distances) {
  vkv::squared_distances(shape, source, rows, mean, distances);
  return {};
}

Result<std::optional<BadValue>> ArenaBackend::append(std::span<const AppendItem> items) {
  return append_rows(items);
}

Status ArenaBackend::to_float(ElementType element, const void* source, float* target,
                              size_t count) {
  vkv::to_float(element, source, target, count);
  return {};
}

Status ArenaBackend::from_float(ElementType element, const float* source, void* target,
                                size_t count) {
  vkv::from_float(element, source, target, count);
  return {};
}

Status ArenaBackend::keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept) {
  vkv::keep_rows(rows, row_values, kept);
  return {};
}

Status ArenaBackend::copy(void* target, const void* source, size_t byte_count) {
  if (byte_count > 0) std::memcpy(target, source, byte_count);
  return {};
}

Status ArenaBackend::zero(std::span<std::byte> bytes) {
  if (!bytes.empty()) std::memset(bytes.data(), 0, bytes.size());
  return {};
}

}  // namespace vkv
