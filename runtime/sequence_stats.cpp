// sequence_stats.cpp: walks the block tables.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/sequence_stats.h"

#include <bit>
#include <map>
#include <tuple>

namespace vkv {
namespace {

constexpr double kBitsPerByte = 8.0;

// Bits are summed in double: shares of padding are no whole numbers.
struct RoleBits {
  double all = 0;
  double sealed = 0;
  double original = 0;
};

struct FormSum {
  uint64_t tokens = 0;
  double bits = 0;
};
using FormKey = std::tuple<Role, TokenForm, Codec, Codec>;

uint64_t dead_tokens(const Block& block, const uint32_t* live) {
  if (live == nullptr) return 0;
  uint64_t dead = block.token_count;
  for (size_t word = 0; word < live_words(block); ++word)
    dead -= static_cast<uint64_t>(std::popcount(live[word]));
  return dead;
}

class Walk {
 public:
  Walk(const CacheOptions& options, SequenceStats& stats)
      : options_(options),
        values_(2 * static_cast<uint64_t>(options.shape.kv_heads * options.shape.head_dim)),
        stats_(stats) {}

  void layer(const SequenceState& sequence, const LayerState& state) {
    for (const ExtentUse& use : state.extents)
      shared_header_users_[use.extent->headers().get()] += 1;
    std::array<uint64_t, kRoleCount> low{};  // tokens of low blocks
    for (const ExtentUse& use : state.extents) {
      const bool is_low = use.extent->kind() == ExtentKind::kLow;
      extent(use, is_low ? TokenForm::kLow : TokenForm::kHigh);
      for (const Block& block : use.extent->blocks())
        for (size_t role = 0; is_low && role < kRoleCount; ++role)
          low[role] += block.role_token_count[role];
    }
    for (const ExtentUse& use : state.promoted) extent(use, TokenForm::kPromoted);
    originals(state, low);
    open(sequence, state);
    if (!state.mean || state.token_count == 0) return;
    const double mean_bits = kBitsPerByte * static_cast<double>(state.mean->byte_count());
    for (uint32_t t = 0; t < state.token_count; ++t)
      bits_[index(sequence.roles[t])].all += mean_bits / state.token_count;
  }

  void finish() {
    for (size_t role = 0; role < kRoleCount; ++role) {
      stats_.role[role].stored_bits = static_cast<uint64_t>(bits_[role].all);
      stats_.role[role].sealed_stored_bits = static_cast<uint64_t>(bits_[role].sealed);
      stats_.role[role].original_bits = static_cast<uint64_t>(bits_[role].original);
    }
    for (const auto& [key, sum] : forms_)
      stats_.forms.push_back({.role = std::get<0>(key),
                              .form = std::get<1>(key),
                              .k_codec = std::get<2>(key),
                              .v_codec = std::get<3>(key),
                              .token_count = sum.tokens,
                              .byte_count = static_cast<uint64_t>(sum.bits / kBitsPerByte)});
  }

 private:
  static size_t index(Role role) { return static_cast<size_t>(role); }

  void add_form(const FormKey& key, uint64_t tokens, double bits) {
    forms_[key].tokens += tokens;
    forms_[key].bits += bits;
  }

  void open(const SequenceState& sequence, const LayerState& state) {
    const double row_bits = 16.0 * static_cast<double>(values_) +
                            kBitsPerByte * (sizeof(uint32_t) + sizeof(TokenClass));
    for (size_t i = 0; i < static_cast<size_t>(state.open.token_count()); ++i) {
      const Role role = sequence.roles[state.open.positions()[i]];
      const bool sink = state.open.classes()[i] == TokenClass::kSink;
      stats_.role[index(role)].value_count += values_;
      stats_.role[index(role)].high_value_count += sink ? values_ : 0;
      bits_[index(role)].all += row_bits;
      add_form({role, TokenForm::kOpen, options_.open_codec, options_.open_codec}, 1, row_bits);
    }
  }

  void extent(const ExtentUse& use, TokenForm form) {
    const Extent& extent = *use.extent;
    uint64_t record_bytes = 0;
    for (const Block& block : extent.blocks()) record_bytes += block.record_bytes;
    double extent_bytes = static_cast<double>(extent.byte_count() + extent.table_bytes());
    if (use.live) extent_bytes += static_cast<double>(use.live->byte_count());
    if (extent.headers())
      extent_bytes += static_cast<double>(extent.headers()->byte_count()) /
                      shared_header_users_[extent.headers().get()];
    const uint32_t* live = use.live_begin();
    for (const Block& block : extent.blocks()) {
      const double token_bits = kBitsPerByte * extent_bytes * block.record_bytes /
                                static_cast<double>(record_bytes) / block.token_count;
      for (size_t role = 0; role < kRoleCount; ++role) {
        const uint64_t stored = block.role_token_count[role];
        if (stored == 0) continue;
        // Only visual tokens are promoted; what a copy counts, its low token does not.
        const uint64_t tokens =
            stored - (role == index(Role::kVisual) ? dead_tokens(block, live) : 0);
        RoleStats& stats = stats_.role[role];
        stats.value_count += tokens * values_;
        stats.sealed_value_count += tokens * values_;
        stats.nvme_value_count += extent.tier() == Tier::kNvme ? tokens * values_ : 0;
        stats.high_value_count += form != TokenForm::kLow ? tokens * values_ : 0;
        stats.promoted_value_count += form == TokenForm::kPromoted ? tokens * values_ : 0;
        const double bits = static_cast<double>(stored) * token_bits;
        bits_[role].all += bits;
        bits_[role].sealed += bits;
        add_form({static_cast<Role>(role), form, block.codecs.k, block.codecs.v}, stored, bits);
      }
      if (live != nullptr) live += live_words(block);
    }
  }

  // Originals are those of the low blocks' tokens, role by role.
  void originals(const LayerState& state, const std::array<uint64_t, kRoleCount>& low) {
    uint64_t tokens = 0;
    double bits = 0;
    for (const ExtentUse& use : state.originals) {
      tokens += use.extent->original_count();
      bits +=
          kBitsPerByte * static_cast<double>(use.extent->byte_count() + use.extent->table_bytes());
    }
    for (size_t role = 0; tokens > 0 && role < kRoleCount; ++role) {
      if (low[role] == 0) continue;
      const double share = bits * static_cast<double>(low[role]) / static_cast<double>(tokens);
      bits_[role].original += share;
      add_form(
          {static_cast<Role>(role), TokenForm::kOriginal, options_.open_codec, options_.open_codec},
          low[role], share);
    }
  }

  const CacheOptions& options_;
  const uint64_t values_;  // K and V of a token and layer
  SequenceStats& stats_;
  std::array<RoleBits, kRoleCount> bits_;
  std::map<FormKey, FormSum> forms_;
  std::map<const ChargedBytes*, int> shared_header_users_;
};

}  // namespace

uint64_t sequence_bytes(const CacheOptions& options, const SequenceState& sequence) {
  const size_t v_sum_bytes =
      options.keep_original == KeepOriginal::kNone
          ? 0
          : sizeof(double) * static_cast<size_t>(options.shape.kv_heads * options.shape.head_dim);
  return sizeof(SequenceState) + sequence.layers.size() * (sizeof(LayerState) + v_sum_bytes) +
         sequence.roles.size() * sizeof(Role);
}

SequenceStats sequence_stats(const CacheOptions& options, const SequenceState& sequence) {
  SequenceStats stats;
  stats.token_count = sequence.roles.size();
  stats.open_token_count = static_cast<uint64_t>(sequence.layers.front().open.token_count());
  for (Role role : sequence.roles) ++stats.role[static_cast<size_t>(role)].token_count;
  Walk walk(options, stats);
  for (const LayerState& state : sequence.layers) walk.layer(sequence, state);
  walk.finish();
  return stats;
}

}  // namespace vkv
