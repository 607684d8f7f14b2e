// cache.h: the KV cache of a multimodal model: start here.
// SPDX-License-Identifier: Apache-2.0
//
// A model calls, for each layer in order, append() with the K and V of its new tokens and then
// attend() with their queries. The cache keeps the newest tokens at 16 bit, encodes the rest by the
// precision policy, and keeps the encoded blocks in HBM, in DRAM or on NVMe under hard byte
// budgets. The tier never changes a result: attention over the same blocks is bit-identical
// wherever they lie.
//
// Threads: any thread may call; calls on one cache run one after another. Pointers to k, v, q and
// out are host pointers, read or written only during the call; on CUDA they are the device's, used
// in the order of options.stream, and q and out are 16-byte aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vkv/options.h"
#include "vkv/saved.h"
#include "vkv/stats.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

// K (after RoPE) and V of new tokens of one layer.
struct AppendRequest {
  SequenceId sequence{};
  int token_count = 0;
  const void* k = nullptr;      // [token_count, kv_heads, head_dim], options.element
  const void* v = nullptr;      // [token_count, kv_heads, head_dim], options.element
  std::span<const Role> roles;  // [token_count]; must be the same for every layer
};

// Queries of the newest q_len tokens of a sequence; query i sees all tokens up to its own.
struct AttendRequest {
  SequenceId sequence{};
  int q_len = 0;            // decode 1, verification of a draft a few, a prefill chunk any number
  const void* q = nullptr;  // [q_len, q_heads, head_dim], options.element
  void* out = nullptr;      // [q_len, q_heads, head_dim], options.element
  // The chunk ends its prefill window: seal what is older than the recent tokens, in short blocks
  // if need be. Leave it false for decode steps and for all chunks of a prompt but the last.
  bool ends_window = false;
};

class VKV_API Cache {
 public:
  // Errors: kInvalidArgument for options out of range, kOutOfMemory for budgets too small for one
  // block and its staging, kIo for a store file that cannot be made, kUnsupported for what the
  // device or this build does not have, kCuda.
  static Result<std::unique_ptr<Cache>> open(const CacheOptions& options);
  virtual ~Cache() = default;

  virtual Result<SequenceId> create_sequence() = 0;

  // A sequence with the same tokens. Blocks are shared, open tokens copied. Layers must be level:
  // every layer has the same tokens.
  virtual Result<SequenceId> fork(SequenceId parent) = 0;

  // Frees the sequence and every block that no other sequence shares.
  virtual Status erase(SequenceId sequence) = 0;

  // Drops the newest tokens of every layer, for a rejected draft. What is still open can go: after
  // an attend that is at least options.recent_tokens tokens. Errors: kUnsupported, naming how many
  // can go, and nothing changes; kInvalidArgument for more tokens than there are.
  virtual Status truncate(SequenceId sequence, int token_count_dropped) = 0;

  // Errors: kNotFound, kInvalidArgument (layers out of step, roles of another length, values that
  // are not finite or overflow 16 bit; found late with options.stream: see settle()), kOutOfMemory
  // naming the tier and the need. A failed append changes nothing.
  Status append(int layer, const AppendRequest& request) {
    return append(layer, std::span(&request, 1));
  }
  // The same for several sequences, each once, which on a GPU is one launch for all.
  virtual Status append(int layer, std::span<const AppendRequest> requests) = 0;

  // Attention of several sequences in one call; a sequence may stand in it once. Seals and places
  // blocks afterwards. Errors: kNotFound, kInvalidArgument, kOutOfMemory (the blocks made do not
  // fit), kIo and kDataLoss naming the sequence: `out` then has no meaning.
  virtual Status attend(int layer, std::span<const AttendRequest> requests) = 0;

  // For callers with options.stream, before they use what came of their calls: whether K and V that
  // were appended were all right. On such a stream calls return before the device has looked at
  // values, so what append would refuse (a value that is not finite or overflows 16 bit) or a seal
  // (a range that fp16 scales cannot hold) is found late: then this, or any call with the sequence,
  // says so once, in the same words with sequence and layer in front, and the sequence can only be
  // erased. Waits for the stream. Otherwise, and on the CPU, calls say it themselves: does nothing.
  virtual Status settle() { return {}; }

  // ---- Sequences that outlive the process, with options.keep_store: in another process, or after
  // a crash, a cache with the same shape, precision policy, open codec, recent tokens and
  // keep_original goes on as this one would have: its answers are bit-identical. Errors of all:
  // kUnsupported where nothing is kept, kIo.

  // Keeps the sequence as it is now under the key, which must name all that its content depends on;
  // what had the key before is gone. When it returns ok, the sequence survives kill -9 and a power
  // failure. The sequence goes on, and its blocks that were written need not be written again.
  // Errors: kInvalidArgument for layers out of step, kOutOfMemory.
  virtual Status save(SequenceId, const SequenceKey&) { return keeps_nothing(); }

  // A new sequence with what was saved. Blocks are read into DRAM as far as there is room, and left
  // on NVMe for the rest; every byte is checked against its checksum when it is read. Errors:
  // kNotFound; kInvalidArgument for other options; kOutOfMemory; kDataLoss where the bytes are not
  // those that were saved: append them anew then.
  virtual Result<SequenceId> restore(const SequenceKey&) { return keeps_nothing(); }

  // Sequences that were restored from it go on. Errors: kNotFound.
  virtual Status erase_saved(const SequenceKey&) { return keeps_nothing(); }

  virtual Result<std::vector<SavedSequence>> saved() const { return keeps_nothing(); }  // by key

  virtual Result<SequenceStats> sequence_stats(SequenceId sequence) const = 0;
  virtual CacheStats stats() const = 0;

  virtual const CacheOptions& options() const = 0;  // as opened, defaults filled in
  virtual std::string engine() const = 0;           // of attention: "cpu-onednn (...)"
  virtual std::string io_engine() const = 0;        // "io_uring", "threads", "none"

 private:
  static Status keeps_nothing() {
    return {Code::kUnsupported, "this cache keeps no sequences beyond its process"};
  }
};

}  // namespace vkv
