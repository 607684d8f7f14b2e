// stats.h: what a cache counted.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include "vkv/types.h"

namespace vkv {

struct TierStats {
  uint64_t bytes_used = 0;
  uint64_t bytes_peak = 0;
  uint64_t bytes_max = 0;     // the budget
  uint64_t extent_count = 0;  // extents that lie there now
};

// Storage of the tokens of one role, summed over layers, KV heads, K and V. Shared blocks count
// once a sequence that holds them.
struct RoleStats {
  uint64_t token_count = 0;         // tokens of the sequence, not times layers
  uint64_t value_count = 0;         // K and V values of all layers
  uint64_t stored_bits = 0;         // with headers, padding, block table and means
  uint64_t sealed_value_count = 0;  // of them, in records
  uint64_t sealed_stored_bits = 0;
  uint64_t nvme_value_count = 0;  // of them, on NVMe now
  uint64_t high_value_count = 0;  // of them, in high precision (sink or high class)

  double bits_per_value() const {
    return value_count == 0 ? 0.0
                            : static_cast<double>(stored_bits) / static_cast<double>(value_count);
  }
};

struct SequenceStats {
  uint64_t token_count = 0;
  uint64_t open_token_count = 0;  // of layer 0
  std::array<RoleStats, kRoleCount> role;
};

struct CacheStats {
  std::array<TierStats, kTierCount> tier;
  uint64_t sequence_count = 0;
  uint64_t attend_count = 0;        // attend calls
  uint64_t sealed_token_count = 0;  // tokens x layers encoded so far
  uint64_t demoted_bytes = 0;       // dram -> nvme
  uint64_t nvme_read_bytes = 0;
  uint64_t nvme_written_bytes = 0;
  uint64_t nvme_read_count = 0;       // extents read
  uint64_t prefetch_hit_count = 0;    // extents whose read had been issued before they were needed
  uint64_t prefetch_ready_count = 0;  // of them, already there when needed
  double nvme_wait_seconds = 0;       // time that attend stood still for a read
  double attend_seconds = 0;
  double encode_seconds = 0;
};

}  // namespace vkv
