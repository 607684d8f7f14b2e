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
  // I4, I2, I1: the levels of least squared error, moved away from their middle by this factor,
  // 0.5..4. More than 1 where a model's attention is decided by the few keys that stand out, which
  // least squares draw in; less accurate where it is spread over many. `vkv quality` finds it.
  float k_spread = 1.0f;
  float v_spread = 1.0f;
  bool operator==(const CodecPair&) const = default;
};

// What one layer does instead of the policy's own pairs; written by calibration.
struct LayerPrecision {
  int layer = 0;
  CodecPair high;
  CodecPair low;
  bool operator==(const LayerPrecision&) const = default;
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
  std::vector<LayerPrecision> layers;     // overrides, each layer at most once, in any order

  bool operator==(const PrecisionPolicy&) const = default;
};

// The pairs of one layer: its override, or the policy's own.
VKV_API LayerPrecision precision_of_layer(const PrecisionPolicy& policy, int layer);

// Errors: kInvalidArgument naming the field and what it may be. What depends on the model (the
// number of layers) is checked by Cache::open.
VKV_API Status validate(const PrecisionPolicy& policy);

// exact, safe, balanced, visual2, visual1, extreme, onebit.
// Errors: kInvalidArgument, listing the names there are.
VKV_API Result<PrecisionPolicy> precision_preset(std::string_view name);
VKV_API std::vector<std::string_view> precision_preset_names();

// Whether the 16-bit K and V of low tokens stay beside their codes. A later question over the same
// media is then read at 16 bit, and the tokens that it looks at get high precision; without them,
// a token stays what the window that brought it made of it. DRAM: 16 bit a value, demoted first
// where there is an NVMe tier. NVMe: written out at the end of the window, read once a question.
enum class KeepOriginal : uint8_t { kNone = 0, kDram = 1, kNvme = 2 };
VKV_API std::string_view name(KeepOriginal keep);  // "none", "dram", "nvme"

// What happens when a sample of the quality meter is above the bound.
enum class QualityAction : uint8_t {
  kCount = 0,    // counted in CacheStats, no more
  kPromote = 1,  // its layer chooses high tokens anew, by the sample's query; needs originals
};

// Samples of the error that encoding makes, while the cache works. A sample is the newest query of
// one attend call, layer and sequence, all its heads; its attention is computed again with 16-bit
// K and V: with the originals where they are kept; otherwise, at the moment when tokens are
// encoded, over those tokens, weighted by their share of the query's attention.
struct QualityOptions {
  double sample_fraction = 0;  // of layers and steps, 0..1; which ones depends on nothing random
  double error_bound = 0;      // of a head: ||out - exact|| / ||exact||; 0: none
  QualityAction action = QualityAction::kCount;
};

// How files are read and written. kAuto takes io_uring where the kernel allows it.
enum class IoBackend : uint8_t { kAuto = 0, kUring = 1, kThreads = 2 };

// Who computes, and in whose memory K, V, q and out of the calls lie.
enum class Device : uint8_t { kCpu = 0, kCuda = 1 };

struct CacheOptions {
  KvShape shape;
  ElementType element = ElementType::kF32;  // of the caller's q, k, v and out
  Codec open_codec = Codec::kF16;           // kF16 or kBf16: tokens before they are sealed
  float score_scale = 0.0f;                 // 0: 1/sqrt(head_dim)

  // kCuda keeps blocks and open tokens in HBM, and has no originals or quality meter yet.
  Device device = Device::kCpu;
  int device_index = 0;  // CUDA's, among the visible devices
  // A cudaStream_t of that device. What is queued on it before a call is seen by the call, what is
  // queued after it sees its results; call Cache::settle() before you use them. nullptr: the cache
  // has a stream of its own; what is passed must be ready then, and results are when a call
  // returns.
  void* stream = nullptr;

  PrecisionPolicy precision;
  KeepOriginal keep_original = KeepOriginal::kNone;
  QualityOptions quality;
  // Newest tokens of each sequence kept at 16 bit, and the most that truncate can always drop.
  // 16..4096. They are what the next answer tokens look at most.
  int recent_tokens = 128;

  // Hard budgets. HBM, on CUDA alone and needed there: records, open tokens, means, headers, what a
  // call needs, and the kernels' work memory; all of it is taken at open.
  uint64_t hbm_bytes_max = 0;
  // Of it, what encoded blocks may take; the rest goes to DRAM. Default: all that is left.
  uint64_t hbm_block_bytes_max = UINT64_MAX;
  // DRAM counts records, open tokens, staging for reads, headers and block tables. On CUDA: tables,
  // and the pinned memory that records go to when HBM is full.
  uint64_t dram_bytes_max = uint64_t{4} << 30;
  // Of it, what encoded blocks may take; the rest goes to NVMe, which must exist then. Default:
  // all.
  uint64_t dram_block_bytes_max = UINT64_MAX;
  uint64_t nvme_bytes_max = 0;  // 0: no NVMe tier
  std::string store_path;       // the NVMe tier's file; created, and removed at close
  // The file stays at close, with the sequences that were saved, and one that is there is opened:
  // see Cache::save. nvme_bytes_max is for them and for the blocks of the moment together.
  bool keep_store = false;
  // What may be written to that file in a day: flash wears out by it. What was spent comes back
  // evenly. When less than half is left, save() takes sequences of proven use alone, and blocks
  // that are in the store already leave DRAM first; when it is spent, what needs a write fails with
  // kOutOfMemory. A kept file carries the account with it. UINT64_MAX: no limit.
  uint64_t nvme_write_bytes_per_day = UINT64_MAX;
  IoBackend io_backend = IoBackend::kAuto;
  // Unit of moving, 4 KiB..16 MiB; raised to hold one full block. It groups the partial results of
  // attention, so compare runs bit by bit only at the same value.
  uint64_t extent_bytes_max = uint64_t{1} << 20;
  // Slots of extent_bytes_max in DRAM for extents read ahead of the layer that needs them; 2..64,
  // 0: 16, or fewer where they would take more than an eighth of the DRAM budget. On CUDA 2..8192,
  // and 256: all that one layer of a call has on NVMe must fit in them, or the call is refused.
  int prefetch_extents = 0;

  // On CUDA: of the HBM budget, what is for blocks that are brought from DRAM ahead of the layer
  // that needs them, while the weights before it are read: as much as the link moves in that time
  // is used. 0: nothing is read ahead; UINT64_MAX: 64 MiB, or a sixteenth of a small budget.
  uint64_t hbm_ahead_bytes = UINT64_MAX;

  // On CUDA: of what a decode step reads in DRAM, the fraction for the CPU, which attends beside
  // the GPU; the GPU reads the rest through its link. 0: none, and outputs do not depend on where
  // blocks lie. -1: so much that both are done together, by times that are measured call by call;
  // outputs then differ in their last bits from run to run.
  double host_share = 0;

  // Worker threads; 0: all that the process may use. VKV_CPU forces an engine; `vkv topo` lists
  // those there are.
  int threads = 0;
};

}  // namespace vkv
