// seal.h: open tokens become encoded blocks.
// SPDX-License-Identifier: Apache-2.0
//
// After the attention of a chunk, tokens older than the recent ones get a class, and the tokens of
// a class are gathered into blocks, in any mix of frames: after RoPE the order of keys does not
// matter. Full blocks are sealed at once, the rest waits for its block to fill or for the end of
// the prefill window.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/backend.h"
#include "runtime/encode_extent.h"
#include "runtime/placement.h"
#include "runtime/promotion.h"
#include "runtime/quality_meter.h"
#include "runtime/sequence.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct SealRequest {
  int layer = 0;
  bool ends_window = false;
  // The queries just computed, for saliency.
  int q_len = 0;
  const float* q = nullptr;       // [q_len, q_heads, head_dim]
  const float* lse = nullptr;     // [q_len, q_heads]
  const float* out = nullptr;     // [q_len, q_heads, head_dim]
  QualityMeter* meter = nullptr;  // to be told what encoding does to the newest query
};

class Sealer {
 public:
  // `options` outlives it, defaults filled in.
  Sealer(const CacheOptions& options, float scale, Backend& backend, Placement& placement,
         Promoter& promoter)
      : options_(options),
        scale_(scale),
        backend_(backend),
        placement_(placement),
        promoter_(promoter) {}

  // At the end of a window, low tokens whose originals are kept are promoted anew.
  // Errors: kOutOfMemory, kIo: what was sealed before stays sealed, the rest stays open.
  // Returns the number of tokens sealed.
  Result<uint64_t> seal(SequenceState& sequence, const SealRequest& request);

 private:
  // Decides the tokens that have left the recent window.
  Status classify_new(const SequenceState& sequence, LayerState& state, const SealRequest& request);
  // Full blocks of a class, at the end of a window all of it. Marks the rows that it has sealed,
  // also where it fails. gone: [open tokens].
  Status seal_class(const SequenceState& sequence, LayerState& state, const SealRequest& request,
                    TokenClass token_class, SealSample* sample, std::span<uint8_t> gone);
  // One extent from the first of `rows`; returns how many rows it took.
  Result<size_t> seal_extent(LayerState& state, const EncodeExtentRequest& request);
  void add_originals(LayerState& state, std::vector<ExtentUse> originals, const OpenTokens& source,
                     std::span<const uint32_t> rows) const;
  Status fix_mean(LayerState& state, std::span<const uint32_t> rows);
  Result<SharedHeaders> segment_headers(const LayerState& state, const CodecPair& codecs,
                                        std::span<const uint32_t> rows);

  CodecPair codecs_of(int layer, TokenClass token_class) const {
    const LayerPrecision own = precision_of_layer(options_.precision, layer);
    return token_class == TokenClass::kHigh ? own.high : own.low;
  }

  const CacheOptions& options_;
  const float scale_;
  Backend& backend_;
  Placement& placement_;
  Promoter& promoter_;
};

// Bytes of the largest record that a policy makes: a full block.
size_t record_bytes_max(const KvShape& shape, const PrecisionPolicy& policy);

}  // namespace vkv
