// promotion.h: 16-bit originals of low tokens, and high copies of those that a question looks at.
// SPDX-License-Identifier: Apache-2.0
//
// A question that comes after its media were sealed looks at tokens that nobody looked at then.
// Where originals are kept, all visual tokens are sealed low, and at the end of each prefill window
// the most salient of them get high copies, encoded from the originals, up to the policy's budget;
// a live mask of the sequence keeps the low ones from counting twice. The copies of the window
// before are given up. Forks share records and copies, each has its own masks.
//
// The window's last queries attend to the originals themselves: promotion has to read all of those
// anyway, to rank tokens by exact scores (scores of 1-bit keys rank badly), and so a later question
// is read as exactly as one that came with its media.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/base/backend.h"
#include "runtime/placement.h"
#include "runtime/sequence.h"
#include "runtime/stager.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

// The newest of a prompt, for saliency and for reading originals: more say nothing new.
inline constexpr int kSaliencyQueries = 64;

// DRAM that keeping and promoting need for themselves.
uint64_t promotion_dram_bytes(const CacheOptions& options);

struct PromoteRequest {
  int layer = 0;
  int q_len = 0;                  // 1..kSaliencyQueries
  const float* q = nullptr;       // [q_len, q_heads, head_dim]
  const float* lse = nullptr;     // [q_len, q_heads]: of the whole attention
  const float* k_mean = nullptr;  // of that attention
};

class Promoter {
 public:
  // `options` outlives it, defaults filled in. stager: nullptr without an NVMe tier.
  Promoter(const CacheOptions& options, float scale, Backend& backend, Placement& placement,
           MemoryPool& pool, Stager* stager)
      : options_(options),
        scale_(scale),
        backend_(backend),
        placement_(placement),
        pool_(pool),
        stager_(stager) {}

  // True if the layer's low tokens lose anything that is worth keeping, and it is to be kept.
  bool keeps(int layer) const;

  // Copies rows of the open tokens into extents of originals. Errors: kOutOfMemory, kIo; nothing
  // is kept then.
  Result<std::vector<ExtentUse>> keep(const OpenTokens& open, int layer,
                                      std::span<const uint32_t> rows);

  // Chooses anew which low tokens have high copies. Errors: kOutOfMemory, kIo, kDataLoss: none has
  // one then, and all low tokens count.
  Status promote(LayerState& state, const PromoteRequest& request);

  // Originals leave DRAM where they are to be kept on NVMe. Errors: kOutOfMemory, kIo.
  Status settle();

 private:
  using Visit = std::function<Status(uint32_t first, const OpenTokens& originals)>;
  // Calls visit for every extent of originals in order. `first`: tokens before it.
  Status for_originals(const LayerState& state, const Visit& visit);
  Result<std::vector<float>> scores(const LayerState& state, const PromoteRequest& request);
  Result<std::vector<ExtentUse>> encode_copies(const LayerState& state, int layer,
                                               std::span<const uint32_t> chosen);
  // Masks of the low extents, in order, with the bits of `chosen` cleared.
  Result<std::vector<std::shared_ptr<const ChargedBytes>>> masks(const LayerState& state,
                                                                 std::span<const uint32_t> chosen);

  size_t row_values() const {
    return static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim);
  }

  const CacheOptions& options_;
  const float scale_;
  Backend& backend_;
  Placement& placement_;
  MemoryPool& pool_;
  Stager* stager_;
};

}  // namespace vkv
