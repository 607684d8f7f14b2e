// kv_need.cpp: sums over layers, windows and classes.
// SPDX-License-Identifier: Apache-2.0
#include "tools/server/kv_need.h"

#include <algorithm>

#include "runtime/base/block_format.h"
#include "runtime/extent.h"
#include "runtime/sequence.h"

namespace vkv {
namespace {

constexpr uint64_t kClasses = 2;        // high and low
constexpr uint64_t kOutlierTokens = 8;  // keys far from all others stay open; few are
// Tables of an extent: itself, its blocks, and a mask.
constexpr uint64_t kTableBytes = sizeof(Extent) + 2 * sizeof(Block) + 64;

uint64_t divide_up(uint64_t value, uint64_t by) { return (value + by - 1) / by; }
uint64_t less(uint64_t a, uint64_t b) { return a - std::min(a, b); }

// A record of n tokens takes at most n * token_bytes + short_bytes.
struct RecordRate {
  double token_bytes = 0;
  uint64_t short_bytes = 0;
};

RecordRate rate_of(const KvShape& shape, const CodecPair& codecs) {
  const int block = tokens_per_block(shape.head_dim);
  return {static_cast<double>(block_layout(shape, codecs, block).record_bytes()) / block,
          block_layout(shape, codecs, kTokenGranule).record_bytes()};
}

RecordRate larger(const RecordRate& a, const RecordRate& b) {
  return {std::max(a.token_bytes, b.token_bytes), std::max(a.short_bytes, b.short_bytes)};
}

uint64_t open_token_bytes(const KvShape& shape) {
  const auto values = static_cast<uint64_t>(2 * shape.kv_heads * shape.head_dim);
  return values * sizeof(uint16_t) + sizeof(uint32_t) + sizeof(TokenClass);
}

}  // namespace

KvNeed& KvNeed::operator+=(const KvNeed& other) {
  open_bytes += other.open_bytes;
  record_bytes += other.record_bytes;
  return *this;
}

KvNeed& KvNeed::operator-=(const KvNeed& other) {
  open_bytes = less(open_bytes, other.open_bytes);
  record_bytes = less(record_bytes, other.record_bytes);
  return *this;
}

KvNeed sequence_need(const CacheOptions& options, const KvTokens& tokens, int window_tokens_max) {
  const KvShape& shape = options.shape;
  const auto block = static_cast<uint64_t>(tokens_per_block(shape.head_dim));
  const uint64_t prompt = tokens.visual + tokens.other;
  const uint64_t all = prompt + tokens.generated + tokens.forked;
  const uint64_t windows = divide_up(prompt, static_cast<uint64_t>(window_tokens_max));
  const bool originals = options.keep_original != KeepOriginal::kNone;

  KvNeed need;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const LayerPrecision pairs = precision_of_layer(options.precision, layer);
    const RecordRate high = rate_of(shape, pairs.high);
    const RecordRate any = larger(high, rate_of(shape, pairs.low));
    double records = high.token_bytes * static_cast<double>(tokens.other + tokens.generated) +
                     any.token_bytes * static_cast<double>(tokens.visual);
    // Extents: of each class at the end of each window, and of full blocks in between.
    uint64_t extents = kClasses * windows + all / block + 1;
    uint64_t short_records = kClasses * windows;
    if (originals) {
      records += static_cast<double>(tokens.visual * open_token_bytes(shape));
      // Each window may choose anew, before the copies of the last choice are given up.
      const double promoted = options.precision.high_fraction * static_cast<double>(all);
      records += 2 * promoted * high.token_bytes;
      extents += 2 * kClasses + windows;
      short_records += 2;
    }
    need.record_bytes += static_cast<uint64_t>(records) + short_records * any.short_bytes +
                         extents * kExtentAlignment;
    need.open_bytes += extents * kTableBytes;
  }
  const auto recent = static_cast<uint64_t>(options.recent_tokens + options.precision.sink_tokens) +
                      kOutlierTokens + OpenBlock::kGrowthTokens;
  // A buffer is given back when it is twice as large as need be. Decode fills a block beside it.
  const uint64_t open_tokens = std::min(2 * recent + block, 2 * (all + OpenBlock::kGrowthTokens));
  const auto mean_bytes = static_cast<uint64_t>(shape.kv_heads * shape.head_dim) * sizeof(double);
  const uint64_t layer_bytes =
      open_tokens * open_token_bytes(shape) + 2 * mean_bytes + sizeof(LayerState);
  need.open_bytes += static_cast<uint64_t>(shape.layers) * layer_bytes + sizeof(SequenceState) +
                     2 * all * sizeof(Role);
  return need;
}

KvBudget::KvBudget(const CacheOptions& options, const CacheStats& used, int window_tokens_max,
                   double slow_fraction) {
  const auto left = [&](Tier tier, uint64_t bytes_max) {
    return less(bytes_max, used.tier[static_cast<size_t>(tier)].bytes_used);
  };
  const bool on_gpu = options.device == Device::kCuda;
  const uint64_t dram = left(Tier::kDram, options.dram_bytes_max);
  // A window's K and V are 16-bit in one layer at a time, and are moved once as they grow; the rest
  // is what a call needs.
  const auto window = static_cast<uint64_t>(window_tokens_max);
  const uint64_t window_bytes =
      2 * window * open_token_bytes(options.shape) +
      window * static_cast<uint64_t>(options.shape.q_heads) * sizeof(float) *
          (options.element == ElementType::kF32 ? 1 : 2 * options.shape.head_dim) +
      2 * options.extent_bytes_max;
  fast_bytes_ = less(on_gpu ? left(Tier::kHbm, options.hbm_bytes_max) : dram, window_bytes);
  fast_record_bytes_ =
      std::min(fast_bytes_, on_gpu ? options.hbm_block_bytes_max : options.dram_block_bytes_max);
  slow_bytes_ = (on_gpu ? std::min(dram, options.dram_block_bytes_max) : 0) +
                static_cast<uint64_t>(slow_fraction * static_cast<double>(options.nvme_bytes_max));
}

bool KvBudget::fits(const KvNeed& all) const {
  return all.open_bytes <= fast_bytes_ &&
         all.open_bytes + all.record_bytes <= fast_bytes_ + slow_bytes_ &&
         all.record_bytes <= fast_record_bytes_ + slow_bytes_;
}

}  // namespace vkv
