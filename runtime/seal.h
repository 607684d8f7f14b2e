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
#include "runtime/placement.h"
#include "runtime/sequence.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct SealRequest {
  int layer = 0;
  bool ends_window = false;
  // The queries just computed, for saliency.
  int q_len = 0;
  const float* q = nullptr;    // [q_len, q_heads, head_dim]
  const float* lse = nullptr;  // [q_len, q_heads]
};

class Sealer {
 public:
  // `options` outlives it, defaults filled in.
  Sealer(const CacheOptions& options, float scale, Backend& backend, Placement& placement,
         DramPool& pool)
      : options_(options), scale_(scale), backend_(backend), placement_(placement), pool_(pool) {}

  // Errors: kOutOfMemory, kIo: what was sealed before stays sealed, the rest stays open.
  // Returns the number of tokens sealed.
  Result<uint64_t> seal(SequenceState& sequence, const SealRequest& request);

 private:
  // Decides the tokens that have left the recent window.
  Status classify_new(const SequenceState& sequence, LayerState& state, const SealRequest& request);
  // One extent from the first of `rows`; returns how many rows it took. Marks them in `gone`.
  Result<size_t> seal_extent(const SequenceState& sequence, LayerState& state, int layer,
                             TokenClass token_class, std::span<const uint32_t> rows,
                             const SharedHeaders& headers);
  Status fix_mean(LayerState& state, std::span<const uint32_t> rows);
  Result<SharedHeaders> segment_headers(const LayerState& state, const CodecPair& codecs,
                                        std::span<const uint32_t> rows);

  CodecPair codecs_of(TokenClass token_class) const {
    const PrecisionPolicy& policy = options_.precision;
    return token_class == TokenClass::kHigh ? policy.high : policy.low;
  }

  const CacheOptions& options_;
  const float scale_;
  Backend& backend_;
  Placement& placement_;
  DramPool& pool_;
};

// Bytes of the largest record that a policy makes: a full block.
size_t record_bytes_max(const KvShape& shape, const PrecisionPolicy& policy);

}  // namespace vkv
