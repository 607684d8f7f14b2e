// sequence_stats.cpp: walks the block tables.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/sequence_stats.h"

#include <map>

namespace vkv {
namespace {

constexpr double kBitsPerByte = 8.0;

// Bits are summed in double: shares of padding are no whole numbers.
struct RoleBits {
  double all = 0;
  double sealed = 0;
};

class Walk {
 public:
  Walk(const CacheOptions& options, SequenceStats& stats)
      : values_(2 * static_cast<uint64_t>(options.shape.kv_heads * options.shape.head_dim)),
        stats_(stats) {}

  void layer(const SequenceState& sequence, const LayerState& state) {
    for (const auto& extent : state.extents) shared_header_users_[extent->headers().get()] += 1;
    for (const auto& extent : state.extents) this->extent(*extent);
    const OpenTokens open = state.open.tokens();
    for (int i = 0; i < open.token_count; ++i) {
      const size_t role = index(sequence.roles[state.open.positions()[static_cast<size_t>(i)]]);
      const bool sink = state.open.classes()[static_cast<size_t>(i)] == TokenClass::kSink;
      stats_.role[role].value_count += values_;
      stats_.role[role].high_value_count += sink ? values_ : 0;
      bits_[role].all += 16.0 * static_cast<double>(values_) +
                         kBitsPerByte * (sizeof(uint32_t) + sizeof(TokenClass));
    }
    if (!state.mean || state.token_count == 0) return;
    const double mean_bits = kBitsPerByte * static_cast<double>(state.mean->byte_count());
    for (uint32_t t = 0; t < state.token_count; ++t)
      bits_[index(sequence.roles[t])].all += mean_bits / state.token_count;
  }

  void finish() {
    for (size_t role = 0; role < kRoleCount; ++role) {
      stats_.role[role].stored_bits = static_cast<uint64_t>(bits_[role].all);
      stats_.role[role].sealed_stored_bits = static_cast<uint64_t>(bits_[role].sealed);
    }
  }

 private:
  static size_t index(Role role) { return static_cast<size_t>(role); }

  void extent(const Extent& extent) {
    uint64_t record_bytes = 0;
    for (const Block& block : extent.blocks()) record_bytes += block.record_bytes;
    double extent_bytes = static_cast<double>(extent.byte_count() + extent.table_bytes());
    if (extent.headers())
      extent_bytes += static_cast<double>(extent.headers()->byte_count()) /
                      shared_header_users_[extent.headers().get()];
    for (const Block& block : extent.blocks()) {
      const double token_bits = kBitsPerByte * extent_bytes * block.record_bytes /
                                static_cast<double>(record_bytes) / block.token_count;
      for (size_t role = 0; role < kRoleCount; ++role) {
        const uint64_t tokens = block.role_token_count[role];
        RoleStats& stats = stats_.role[role];
        stats.value_count += tokens * values_;
        stats.sealed_value_count += tokens * values_;
        stats.nvme_value_count += extent.tier() == Tier::kNvme ? tokens * values_ : 0;
        stats.high_value_count += block.high ? tokens * values_ : 0;
        bits_[role].all += static_cast<double>(tokens) * token_bits;
        bits_[role].sealed += static_cast<double>(tokens) * token_bits;
      }
    }
  }

  const uint64_t values_;  // K and V of a token and layer
  SequenceStats& stats_;
  std::array<RoleBits, kRoleCount> bits_;
  std::map<const ChargedBytes*, int> shared_header_users_;
};

}  // namespace

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
