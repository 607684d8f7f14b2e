// backend.h: what an engine, CPU or GPU, computes for the cache: encode, attend, saliency.
// SPDX-License-Identifier: Apache-2.0
//
// The cache decides which blocks belong together and in which order partials are merged; a backend
// only computes. Its results depend on nothing but its inputs: not on the tier that a block came
// from, not on the number of threads. On the CPU not on what else is in the same call either; a GPU
// cuts the work of a call as a whole, so there its last bits do.
//
// K, V, queries, outputs, records, means and headers lie in the engine's memory, whatever is queued
// there is in order, and the cache never looks into it: it has an engine convert, copy and compare.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/base/block_format.h"
#include "runtime/base/numa_node.h"
#include "vkv/status.h"
#include "vkv/types.h"

namespace vkv {

// 16-bit tokens that are not yet in a block. Row-major, oldest first.
struct OpenTokens {
  Codec codec = Codec::kF16;  // kF16 or kBf16
  int token_count = 0;
  const uint16_t* k = nullptr;  // [token_count, kv_heads, head_dim]
  const uint16_t* v = nullptr;  // [token_count, kv_heads, head_dim]
};

// One partial: attention of q_len queries over some tokens of one layer of one sequence.
//
// Scores are scale * q.(k - mean): softmax does not change when every key is shifted by the same
// vector, and what is left is small where a model's keys carry a large offset. All partials of a
// layer must use the same mean; lse is that of the shifted scores.
struct AttendItem {
  KvShape shape;
  float scale = 1.0f;  // of scores: 1/sqrt(head_dim) unless the model says otherwise
  int q_len = 0;
  const float* q = nullptr;           // [q_len, q_heads, head_dim]
  const float* k_mean = nullptr;      // [kv_heads, head_dim]; nullptr: zero
  std::span<const BlockView> blocks;  // every query sees all their tokens
  // Of calls on one backend, those with the same number have the same blocks; 0: nobody knows.
  uint64_t blocks_id = 0;
  // The last q_len open tokens are the queries' own when `causal`: query i sees the open tokens
  // [0, token_count - q_len + i]. Otherwise every query sees them all.
  OpenTokens open;
  bool causal = false;      // needs open.token_count >= q_len
  int node = kUnknownNode;  // NUMA node of its blocks: whose threads had better compute it

  float* out = nullptr;  // [q_len, q_heads, head_dim]; 0 where there is no token
  float* lse = nullptr;  // [q_len, q_heads]; -inf where there is no token
};

// Attention of some rows over some tokens: out and lse as in AttendItem.
struct PartialView {
  const float* out = nullptr;  // [row_count, head_dim]
  const float* lse = nullptr;  // [row_count]
};

// Partials of the same rows over disjoint tokens, to become one by merge_weights()
// (runtime/base/lse.h): the first with the second, that with the third and so on. So a call with
// some of them and a second call with what it made and the rest give the bits of one call.
struct MergeItem {
  int head_dim = 0;
  size_t row_count = 0;  // q_len x q_heads
  std::span<const PartialView> partials;
  float* out = nullptr;  // [row_count, head_dim]; with lse it may be the place of the first partial
  float* lse = nullptr;  // [row_count]; -inf, and out 0, where all are of no token
};

// One block to encode, gathered from rows of 16-bit K and V.
struct EncodeItem {
  KvShape shape;
  Codec k_codec = Codec::kF16;
  Codec v_codec = Codec::kF16;
  bool k_rotated = false;    // K I2 or I1 with a mean, head_dim a power of two
  bool v_per_token = false;  // V not 16 bit, and no shared headers
  float k_spread = 1.0f;     // see CodecPair
  float v_spread = 1.0f;
  OpenTokens source;
  std::span<const uint32_t> rows;  // of source, in the order in which the block holds them
  const float* k_mean = nullptr;  // [kv_heads, head_dim]; K is encoded relative to it unless 16 bit
  // Headers made by encode_headers over a whole segment; the record then holds none.
  const std::byte* shared_headers = nullptr;
  std::span<std::byte> record;  // block_layout(item).record_bytes(), 64-byte aligned; all written
};

inline BlockLayout block_layout(const EncodeItem& item) {
  return block_layout(item.shape.kv_heads, item.shape.head_dim, item.k_codec, item.v_codec,
                      static_cast<int>(item.rows.size()), item.shared_headers != nullptr,
                      item.v_per_token);
}

// How much the newest queries look at each of some 16-bit tokens.
struct SaliencyItem {
  KvShape shape;
  float scale = 1.0f;
  int q_len = 0;                  // the newest queries of the attend before, 64 are plenty
  const float* q = nullptr;       // [q_len, q_heads, head_dim]
  const float* lse = nullptr;     // [q_len, q_heads]: of the whole attention
  const float* k_mean = nullptr;  // as in the attend
  OpenTokens open;
  bool causal = true;             // as in AttendItem
  const float* v_mean = nullptr;  // [kv_heads, head_dim]; nullptr: of the tokens given
  // Mean over queries and query heads of the softmax weight that a token gets, times
  // ||v_t - mean v|| over all KV heads.
  float* score = nullptr;  // [open.token_count], in host memory
};

// Whose values a call brings: what an error that is found late is about.
struct CallLabel {
  SequenceId sequence{};
  int layer = 0;
  uint32_t first_position = 0;  // of an append
};

// K and V of a caller, to be kept at 16 bit.
struct AppendItem {
  CallLabel label;
  ElementType element = ElementType::kF32;
  Codec codec = Codec::kF16;  // kF16 or kBf16
  size_t value_count = 0;     // of K, and of V
  const void* k = nullptr;    // [value_count] of `element`
  const void* v = nullptr;
  uint16_t* k_target = nullptr;  // [value_count]
  uint16_t* v_target = nullptr;
};

// A value that is not finite at 16 bit.
struct BadValue {
  size_t item = 0;  // of the call's
  bool of_v = false;
  size_t index = 0;
  float value = 0;
};

// What an engine found out after the call had returned.
struct LateError {
  CallLabel label;
  std::optional<BadValue> bad;  // of an append; else
  Status encoding;              // what encode() or encode_headers() would have said
};

// How a call of Backend::attend_shared() went.
struct ShareTiming {
  uint64_t host_bytes = 0;    // of blocks that the CPU read
  uint64_t device_bytes = 0;  // of blocks in host memory that the device read beside it
  double host_seconds = 0;    // from when the CPU had the queries
  double device_seconds = 0;  // from when it sent them until its own part was done
  double wait_seconds = 0;    // that it then waited for the CPU
};

// How Backend::read_ahead() went.
struct AheadTiming {
  int label = 0;  // as it was given
  uint64_t byte_count = 0;
  double copy_seconds = 0;  // of the copies
  double free_seconds = 0;  // from when they could begin until attention wanted them
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "cpu-onednn (avx512_core_vnni)", "cpu-reference", "cuda (NVIDIA H100; prefill by cuDNN 9.19.0)"
  virtual std::string_view name() const = 0;

  // True: an item of attend may hold all that its queries see, however much; the engine cuts it and
  // merges what it cut. False: one item is one partial, and work memory is the caller's affair.
  virtual bool cuts_attention() const { return false; }

  // Computes every item; they are independent. Parallel inside.
  // Errors: kUnsupported for a shape or codec without a kernel.
  virtual Status attend(std::span<const AttendItem> items) = 0;

  // Where an engine has memory of its own and reads the host's through a link, the CPU may compute
  // beside it on what lies there. host_items: one for each item, with the same queries, k_mean, out
  // and lse, no open tokens, and the blocks, in host memory with their headers, that the CPU shall
  // take; none is fine. An item's out and lse are of both. device_bytes: of the blocks in host
  // memory among `items`, for the timing. Errors: those of attend; what fails on the CPU later is
  // an error of late_errors() and of every later call.
  virtual bool can_share(std::span<const AttendItem>) const { return false; }
  virtual Status attend_shared(std::span<const AttendItem> items, std::span<const AttendItem>,
                               uint64_t /*device_bytes*/) {
    return attend(items);
  }
  // Of calls that are done, oldest first. Does not wait.
  virtual std::optional<ShareTiming> next_share_timing() { return std::nullopt; }

  // Such an engine may bring blocks of host memory into its own while it computes something else:
  // those that the next attend may want, from the first on, as many as fit the room that it was
  // given. They take the place of those before. Blocks of a group lie in one allocation; those that
  // are adjacent come in one copy. Returns the bytes under way. Errors: kCuda.
  virtual Status give_ahead_room(std::span<std::byte> /*device_memory*/) { return {}; }
  virtual size_t ahead_room() const { return 0; }
  virtual Result<uint64_t> read_ahead(int /*label*/, const KvShape&,
                                      std::span<const std::span<const BlockView>> /*groups*/) {
    return uint64_t{0};
  }
  // Has a block that was read ahead point to its copy, for the attend that comes next. Blocks are
  // asked for in the order in which they were given. False: there is none, as after copy() and
  // zero(), which may write what was copied from.
  virtual bool take_ahead(BlockView&) { return false; }
  // Of calls whose blocks were taken and that are done, oldest first. Does not wait.
  virtual std::optional<AheadTiming> next_ahead_timing() { return std::nullopt; }

  // Merges partials of any number and from anywhere: what another engine computed too, as long as
  // this one can read it. Items are independent.
  virtual Status merge(std::span<const MergeItem> items) = 0;

  // Encodes every item; deterministic bit for bit on every engine.
  // Errors: kInvalidArgument for a value that is not finite or overflows fp16, naming the channel.
  virtual Status encode(std::span<const EncodeItem> items) = 0;

  // Headers for all of item.rows together (any number), to be shared by the blocks of a segment:
  // [kv_heads] headers at item.record, headers_bytes() long.
  virtual Status encode_headers(const EncodeItem& item) = 0;

  // Mean of the keys over `rows` of `source`, by the encoder's own sums: [kv_heads, head_dim].
  virtual Status mean_key(const KvShape& shape, const OpenTokens& source,
                          std::span<const uint32_t> rows, float* mean) = 0;

  virtual Status saliency(const SaliencyItem& item) = 0;

  // ||k - mean||^2 of each row and KV head. distances: [rows, kv_heads], in host memory.
  virtual Status squared_distances(const KvShape& shape, const OpenTokens& source,
                                   std::span<const uint32_t> rows, const float* mean,
                                   std::span<float> distances) = 0;

  // Converts K and V of every item; element and codec are the same for all. Returns the first value
  // that is not finite in `codec`, item by item, K before V; no target has a meaning then.
  virtual Result<std::optional<BadValue>> append(std::span<const AppendItem> items) = 0;

  virtual Status to_float(ElementType element, const void* source, float* target, size_t count) = 0;
  virtual Status from_float(ElementType element, const float* source, void* target,
                            size_t count) = 0;

  // Row kept[i] moves to row i, in place. kept: ascending.
  virtual Status keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept) = 0;

  // An engine that works on a caller's stream may return from append(), encode() and
  // encode_headers() before it knows whether their values will do. It keeps what it finds under the
  // item's label, or of an encode the one that was set last, and what comes of such values must not
  // be shown to anybody before late_errors() was asked. Of encode() it is asked soon enough when
  // the records were attended to.
  virtual void label_calls(const CallLabel&) {}
  virtual bool knows_late_errors() const { return false; }  // of some already, without waiting
  virtual Result<std::vector<LateError>> late_errors() { return std::vector<LateError>(); }

  // What is queued between these may run beside what is queued behind end_aside(), except attend,
  // append and conversions, which stand where they stood. Until join() of the number returned, or
  // of a later one, nothing else may touch what it reads or writes, nor memory that was freed in
  // between. 0 is joined at any time.
  virtual void begin_aside() {}
  virtual Result<uint64_t> end_aside() { return uint64_t{0}; }
  virtual Status join(uint64_t) { return {}; }
  virtual Status join_all() { return {}; }

  // Memory of the host that the engine reads is also a disk's to write, and a disk waits for no
  // stream. mark() names all that is queued by now; reach() returns when it is done, is_reached()
  // does not wait. 0 is reached.
  virtual Result<uint64_t> mark() { return uint64_t{0}; }
  virtual Status reach(uint64_t /*mark*/) { return {}; }
  virtual bool is_reached(uint64_t /*mark*/) { return true; }
  // Returns when everything that was queued is done, aside and ahead too. Nothing that was read
  // ahead is taken any more.
  virtual Status quiesce() { return {}; }
  // Only that; waits for nothing.
  virtual Status drop_ahead() { return {}; }

  // From and to the engine's memory and the host's. Host memory that is not pinned may be given up
  // when it returns; for other memory see above.
  virtual Status copy(void* target, const void* source, size_t byte_count) = 0;
  virtual Status zero(std::span<std::byte> bytes) = 0;

  // At the end of a public call: results are where the caller may expect them.
  virtual Status finish() { return {}; }
};

}  // namespace vkv
