// stats.h: what a cache counted.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "vkv/types.h"

namespace vkv {

struct TierStats {
  uint64_t bytes_used = 0;
  uint64_t bytes_peak = 0;
  uint64_t bytes_max = 0;       // the budget
  uint64_t extent_count = 0;    // extents that lie there now
  uint64_t original_bytes = 0;  // of bytes_used: 16-bit originals that are kept
};

// Storage of the tokens of one role, summed over layers, KV heads, K and V. Shared blocks count
// once a sequence that holds them.
struct RoleStats {
  uint64_t token_count = 0;  // tokens of the sequence, not times layers
  uint64_t value_count = 0;  // K and V values of all layers
  uint64_t stored_bits = 0;  // with headers, padding, tables, means, masks and promoted copies
  uint64_t sealed_value_count = 0;  // of them, in records
  uint64_t sealed_stored_bits = 0;
  uint64_t nvme_value_count = 0;      // of them, on NVMe now
  uint64_t high_value_count = 0;      // of them, in high precision (sink or high class, promoted)
  uint64_t promoted_value_count = 0;  // of them, promoted: their low copies are stored, unused
  uint64_t original_bits = 0;         // of originals; a tier's cost, not in stored_bits

  double bits_per_value() const {
    return value_count == 0 ? 0.0
                            : static_cast<double>(stored_bits) / static_cast<double>(value_count);
  }
};

// In what form a token of a layer is stored. Promoted tokens and tokens with originals are stored
// in several.
enum class TokenForm : uint8_t { kOpen = 0, kHigh = 1, kLow = 2, kPromoted = 3, kOriginal = 4 };
inline constexpr int kTokenFormCount = 5;
VKV_API std::string_view name(TokenForm form);  // "open", "high", "low", "promoted", "original"

// Tokens of one role, form and codec pair, summed over layers.
struct FormStats {
  Role role = Role::kText;
  TokenForm form = TokenForm::kOpen;
  Codec k_codec = Codec::kF16;
  Codec v_codec = Codec::kF16;
  uint64_t token_count = 0;  // times layers
  uint64_t byte_count = 0;   // with headers, padding, tables and masks
};

struct SequenceStats {
  uint64_t token_count = 0;
  uint64_t open_token_count = 0;  // of layer 0
  std::array<RoleStats, kRoleCount> role;
  std::vector<FormStats> forms;  // by role, form, K codec, V codec; those that occur
};

// What the quality meter saw; see QualityOptions. One error a query head of a sample.
struct QualityStats {
  uint64_t sample_count = 0;
  uint64_t error_count = 0;
  double error_mean = 0;  // ||out - exact|| / ||exact||
  double error_max = 0;
  uint64_t over_bound_count = 0;  // samples with an error above the bound
  uint64_t promotion_count = 0;   // layers that chose high tokens anew because of that
};

struct CacheStats {
  std::array<TierStats, kTierCount> tier;
  uint64_t sequence_count = 0;
  uint64_t attend_count = 0;        // attend calls
  uint64_t sealed_token_count = 0;  // tokens x layers encoded so far
  uint64_t demoted_bytes = 0;       // hbm -> dram -> nvme, where the budget was reached
  uint64_t risen_bytes = 0;         // nvme -> dram -> hbm, where there was room again
  uint64_t nvme_read_bytes = 0;
  uint64_t nvme_written_bytes = 0;
  uint64_t nvme_payload_bytes = 0;        // of them, records and states: not what rounds them up
  uint64_t nvme_index_written_bytes = 0;  // beside them, what says where they are
  uint64_t nvme_write_bytes_left = UINT64_MAX;  // of the day's write budget, now
  uint64_t nvme_refused_save_count = 0;         // by that budget
  uint64_t nvme_read_count = 0;                 // extents read
  uint64_t prefetch_hit_count = 0;    // extents whose read had been issued before they were needed
  uint64_t prefetch_ready_count = 0;  // of them, already there when needed
  double nvme_wait_seconds = 0;       // time that attend stood still for a read
  // On CUDA: what decode steps read in DRAM: by the CPU, by the GPU through its link while it
  // attends, and ahead of that. How fast lately, in bytes a second; the first two in calls that
  // both took part in.
  uint64_t host_read_bytes = 0;
  uint64_t link_read_bytes = 0;
  uint64_t ahead_read_bytes = 0;
  double host_read_rate = 0;
  double link_read_rate = 0;
  double ahead_read_rate = 0;
  double attend_seconds = 0;
  double encode_seconds = 0;
  QualityStats quality;

  // Bytes written to the store's file for a byte of payload; 0 before anything was written.
  double write_amplification() const {
    return nvme_payload_bytes == 0
               ? 0.0
               : static_cast<double>(nvme_written_bytes + nvme_index_written_bytes) /
                     static_cast<double>(nvme_payload_bytes);
  }
};

}  // namespace vkv
