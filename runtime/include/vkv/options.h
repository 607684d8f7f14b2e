// options.h: every knob of a cache: unit, default, reason.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

// How K and V of a class of tokens are stored.
struct CodecPair {
  Codec k = Codec::kF16;
  Codec v = Codec::kF16;
  // K is rotated by a Hadamard matrix after its mean was taken off, which spreads outliers over all
  // channels: K I2 or I1, head_dim a power of two.
  bool k_rotated = false;
  // V has a scale and a zero point per token instead of per channel; V not at 16 bit, and not with
  // headers that a segment shares.
  bool v_per_token = false;
  bool operator==(const CodecPair&) const = default;
};

// Role and saliency of a token -> how it is stored once it is sealed.
//
// High precision goes to text, control tokens and, up to the budget, the visual tokens that the
// newest queries look at most. Sinks (the first tokens of a sequence, and keys far from all others)
// are never encoded: they stay at 16 bit with the open tokens. K never gets fewer bits than V:
// errors of K cost far more.
struct PrecisionPolicy {
  std::string name = "exact";
  CodecPair high = {Codec::kF16, Codec::kF16};
  CodecPair low = {Codec::kF16, Codec::kF16};
  double high_fraction = 0.10;            // of all tokens; sinks, text and control count first
  double visual_high_fraction_max = 1.0;  // of the visual tokens
  int sink_tokens = 4;                    // the first tokens of a sequence
  double sink_sigmas = 6.0;               // a key this far from the mean is a sink; 0: none is
  bool segment_headers = false;           // one header for the low tokens of a prefill window
};

// exact, safe, balanced, visual2, visual1, extreme, onebit.
// Errors: kInvalidArgument, listing the names there are.
Result<PrecisionPolicy> precision_preset(std::string_view name);
std::vector<std::string_view> precision_preset_names();

// How files are read and written. kAuto takes io_uring where the kernel allows it.
enum class IoBackend : uint8_t { kAuto = 0, kUring = 1, kThreads = 2 };

struct CacheOptions {
  KvShape shape;
  ElementType element = ElementType::kF32;  // of the caller's q, k, v and out
  Codec open_codec = Codec::kF16;           // kF16 or kBf16: tokens before they are sealed
  float score_scale = 0.0f;                 // 0: 1/sqrt(head_dim)

  PrecisionPolicy precision;
  // Newest tokens of each sequence kept at 16 bit, and the most that truncate can always drop.
  // 16..4096. They are what the next answer tokens look at most.
  int recent_tokens = 128;

  // Hard budgets. DRAM counts records, open tokens, staging for reads, headers and block tables.
  uint64_t dram_bytes_max = uint64_t{4} << 30;
  // Of it, what encoded blocks may take; the rest goes to NVMe, which must exist then. Default:
  // all.
  uint64_t dram_block_bytes_max = UINT64_MAX;
  uint64_t nvme_bytes_max = 0;  // 0: no NVMe tier
  std::string store_path;       // the NVMe tier's file; created, and removed at close
  IoBackend io_backend = IoBackend::kAuto;
  // Unit of moving, 4 KiB..16 MiB; raised to hold one full block. It groups the partial results of
  // attention, so compare runs bit by bit only at the same value.
  uint64_t extent_bytes_max = uint64_t{1} << 20;
  // Slots of extent_bytes_max in DRAM for extents read ahead of the layer that needs them; 2..64,
  // 0: 8, or fewer where they would take more than an eighth of the DRAM budget.
  int prefetch_extents = 0;

  // Worker threads; 0: all that the process may use. VKV_CPU=reference|onednn forces an engine.
  int threads = 0;
};

}  // namespace vkv
