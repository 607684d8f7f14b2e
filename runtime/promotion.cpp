// promotion.cpp: keeps originals, ranks them, encodes copies, sets masks.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/promotion.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "runtime/base/codec.h"
#include "runtime/encode_extent.h"

namespace vkv {
namespace {

uint32_t original_count(const LayerState& state) {
  uint32_t count = 0;
  for (const ExtentUse& use : state.originals) count += use.extent->original_count();
  return count;
}

// Tokens whose originals are gathered to be encoded together: those of an extent, as far as their
// 16 bit take no more than two extents.
size_t gathered_tokens(const CacheOptions& options, const CodecPair& codecs) {
  const KvShape& shape = options.shape;
  const size_t block_tokens = static_cast<size_t>(tokens_per_block(shape.head_dim));
  const size_t record_bytes =
      block_layout(shape, codecs, static_cast<int>(block_tokens)).record_bytes();
  const size_t original_bytes =
      2 * sizeof(uint16_t) * block_tokens * static_cast<size_t>(shape.kv_heads * shape.head_dim);
  const size_t blocks = std::min<size_t>(options.extent_bytes_max / record_bytes,
                                         2 * options.extent_bytes_max / original_bytes);
  return std::max<size_t>(1, blocks) * block_tokens;
}

}  // namespace

uint64_t promotion_dram_bytes(const CacheOptions& options) {
  if (options.keep_original == KeepOriginal::kNone) return 0;
  size_t tokens = 0;
  for (int layer = 0; layer < options.shape.layers; ++layer)
    tokens = std::max(tokens,
                      gathered_tokens(options, precision_of_layer(options.precision, layer).high));
  return options.extent_bytes_max +
         2 * sizeof(uint16_t) * tokens *
             static_cast<size_t>(options.shape.kv_heads * options.shape.head_dim);
}

bool Promoter::keeps(int layer) const {
  const CodecPair low = precision_of_layer(options_.precision, layer).low;
  return options_.keep_original != KeepOriginal::kNone && !(is_16_bit(low.k) && is_16_bit(low.v));
}

Result<std::vector<ExtentUse>> Promoter::keep(const OpenTokens& open, int layer,
                                              std::span<const uint32_t> rows) {
  const size_t row_bytes = row_values() * sizeof(uint16_t);
  const size_t rows_max = options_.extent_bytes_max / (2 * row_bytes);
  std::vector<ExtentUse> kept;
  for (size_t first = 0; first < rows.size(); first += rows_max) {
    const auto some = rows.subspan(first, std::min(rows_max, rows.size() - first));
    const size_t byte_count = 2 * some.size() * row_bytes;
    VKV_TRY_ASSIGN(buffer, placement_.allocate(byte_count, "originals"));
    uint16_t* target = reinterpret_cast<uint16_t*>(buffer.data());
    for (const uint16_t* const source : {open.k, open.v})
      for (const uint32_t row : some)
        target = std::copy_n(source + row * row_values(), row_values(), target);
    VKV_TRY(backend_.zero(buffer.bytes().subspan(byte_count)));
    VKV_TRY_ASSIGN(extent, placement_.admit(layer,
                                            {.kind = ExtentKind::kOriginal,
                                             .original_count = static_cast<uint32_t>(some.size()),
                                             .original_codec = open.codec},
                                            std::move(buffer)));
    kept.push_back({.extent = std::move(extent)});
  }
  return kept;
}

Status Promoter::settle() {
  if (options_.keep_original != KeepOriginal::kNvme) return {};
  return placement_.demote_originals();
}

Status Promoter::for_originals(const LayerState& state, const Visit& visit) {
  uint32_t first = 0;
  for (size_t i = 0; i < state.originals.size(); ++i) {
    const std::shared_ptr<Extent>& extent = state.originals[i].extent;
    const bool on_disk = extent->tier() == Tier::kNvme;
    const std::byte* base = extent->memory();
    if (on_disk) {
      std::vector<std::shared_ptr<Extent>> upcoming;
      for (size_t next = i; next < state.originals.size(); ++next)
        if (state.originals[next].extent->tier() == Tier::kNvme &&
            upcoming.size() < static_cast<size_t>(stager_->slot_count()))
          upcoming.push_back(state.originals[next].extent);
      VKV_TRY(stager_->prefetch(upcoming, extent->layer()));
      VKV_TRY_ASSIGN(staged, stager_->acquire(extent));
      base = staged;
    }
    const Status status = visit(first, extent->originals(options_.shape, base));
    if (on_disk) stager_->release(*extent);
    VKV_TRY(status);
    first += extent->original_count();
  }
  return {};
}

Result<std::vector<float>> Promoter::scores(const LayerState& state,
                                            const PromoteRequest& request) {
  const uint32_t count = original_count(state);
  std::vector<float> v_mean;
  for (const double sum : state.original_v_sum) v_mean.push_back(static_cast<float>(sum / count));
  std::vector<float> scores(count);
  VKV_TRY(for_originals(state, [&](uint32_t first, const OpenTokens& originals) {
    return backend_.saliency({.shape = options_.shape,
                              .scale = scale_,
                              .q_len = request.q_len,
                              .q = request.q,
                              .lse = request.lse,
                              .k_mean = request.k_mean,
                              .open = originals,
                              .causal = false,
                              .v_mean = v_mean.data(),
                              .score = &scores[first]});
  }));
  return scores;
}

Status Promoter::promote(LayerState& state, const PromoteRequest& request) {
  if (!uses_saliency(options_.precision, request.layer) || state.originals.empty()) return {};

  // 1. The copies of the question before make room.
  state.promoted.clear();
  for (ExtentUse& use : state.extents) use.live.reset();

  // 2. The most salient tokens; of equals the earlier wins.
  const uint64_t room = visual_high_room(options_.precision, state.token_count, state.counts);
  VKV_TRY_ASSIGN(score, scores(state, request));
  std::vector<uint32_t> chosen(score.size());
  std::iota(chosen.begin(), chosen.end(), 0u);
  const size_t chosen_count = std::min<uint64_t>(room, chosen.size());
  if (chosen_count == 0) return {};
  std::partial_sort(
      chosen.begin(), chosen.begin() + static_cast<ptrdiff_t>(chosen_count), chosen.end(),
      [&](uint32_t a, uint32_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; });
  chosen.resize(chosen_count);
  std::sort(chosen.begin(), chosen.end());

  // 3. Copies and masks come into force together.
  VKV_TRY_ASSIGN(copies, encode_copies(state, request.layer, chosen));
  VKV_TRY_ASSIGN(live, masks(state, chosen));
  state.promoted = std::move(copies);
  size_t next = 0;
  for (ExtentUse& use : state.extents)
    if (use.extent->kind() == ExtentKind::kLow) use.live = std::move(live[next++]);
  return {};
}

Result<std::vector<ExtentUse>> Promoter::encode_copies(const LayerState& state, int layer,
                                                       std::span<const uint32_t> chosen) {
  const CodecPair codecs = precision_of_layer(options_.precision, layer).high;
  const size_t extent_tokens = gathered_tokens(options_, codecs);
  std::vector<ExtentUse> copies;
  for (size_t done = 0; done < chosen.size(); done += extent_tokens) {
    // 1. The originals of an extent's tokens, side by side.
    const auto some = chosen.subspan(done, std::min(extent_tokens, chosen.size() - done));
    const size_t values = some.size() * row_values();
    VKV_TRY_ASSIGN(buffer, placement_.allocate(2 * values * sizeof(uint16_t), "tokens to promote"));
    uint16_t* const k = reinterpret_cast<uint16_t*>(buffer.data());
    OpenTokens source = {.token_count = static_cast<int>(some.size()), .k = k, .v = k + values};
    size_t row = 0;
    VKV_TRY(for_originals(state, [&](uint32_t first, const OpenTokens& originals) -> Status {
      source.codec = originals.codec;
      const uint32_t end = first + static_cast<uint32_t>(originals.token_count);
      for (; row < some.size() && some[row] < end; ++row) {
        const size_t from = (some[row] - first) * row_values();
        std::copy_n(originals.k + from, row_values(), k + row * row_values());
        std::copy_n(originals.v + from, row_values(), k + values + row * row_values());
      }
      return {};
    }));

    // 2. Their records. Only visual tokens are low where saliency tells tokens apart.
    std::vector<uint32_t> rows(some.size());
    std::iota(rows.begin(), rows.end(), 0u);
    const std::vector<Role> roles(some.size(), Role::kVisual);
    VKV_TRY_ASSIGN(extent, encode_extent(options_, backend_, placement_,
                                         {.layer = layer,
                                          .kind = ExtentKind::kHigh,
                                          .codecs = codecs,
                                          .source = source,
                                          .rows = rows,
                                          .roles = roles,
                                          .k_mean = state.mean_values()}));
    copies.push_back({.extent = std::move(extent)});
  }
  return copies;
}

Result<std::vector<std::shared_ptr<const ChargedBytes>>> Promoter::masks(
    const LayerState& state, std::span<const uint32_t> chosen) {
  std::vector<std::shared_ptr<const ChargedBytes>> all;
  size_t next = 0;     // in chosen
  uint32_t first = 0;  // token of the block that is looked at
  for (const ExtentUse& use : state.extents) {
    if (use.extent->kind() != ExtentKind::kLow) continue;
    const uint32_t end = first + static_cast<uint32_t>(token_count(*use.extent));
    if (next == chosen.size() || chosen[next] >= end) {
      all.push_back(nullptr);
      first = end;
      continue;
    }
    size_t word_count = 0;
    for (const Block& block : use.extent->blocks()) word_count += live_words(block);
    VKV_TRY_ASSIGN(bytes, ChargedBytes::make(pool_, word_count * sizeof(uint32_t), "live masks"));
    uint32_t* words = reinterpret_cast<uint32_t*>(bytes->data());
    for (const Block& block : use.extent->blocks()) {
      for (uint32_t token = 0; token < block.token_count; ++token)
        words[token / 32] |= uint32_t{1} << token % 32;
      for (; next < chosen.size() && chosen[next] < first + block.token_count; ++next) {
        const uint32_t token = chosen[next] - first;
        words[token / 32] &= ~(uint32_t{1} << token % 32);
      }
      words += live_words(block);
      first += block.token_count;
    }
    all.push_back(std::move(bytes));
  }
  VKV_CHECK(next == chosen.size());
  return all;
}

}  // namespace vkv
