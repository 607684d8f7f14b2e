// prefill.cpp: an item in pieces, and the calls for each.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/prefill.h"

#include <algorithm>
#include <utility>

#include "runtime/base/block_format.h"

namespace vkv {
namespace {

constexpr size_t kTokenBytes = size_t{72} << 20;  // of K and V: 32K tokens and 4K more of 4 x 128
constexpr size_t kQueryBytes = size_t{32} << 20;  // of queries and output
constexpr int kTokensMost = 36864;
constexpr int kQueriesMost = 4096;
constexpr int kUnitsMost = 2048;
constexpr int kLibraryRows = 128;  // of a tile, of queries and of tokens
constexpr int kQueriesLeast = 17;
// A tile of the library's takes as long alone as with as many beside it as a GPU has room for. In
// that time the kernel of decoding does so many rows (queries of a head) over codes, and a third of
// them over 16-bit tokens: measured on an H100 over 32K tokens of I4 (0.46 ms) and of bf16.
constexpr int64_t kRowsThatPay = 1900;
constexpr int64_t kHalfTokenCost = 3;

int as_many(size_t bytes, size_t row_bytes, int most) {
  const auto fit = static_cast<int>(std::min<size_t>(bytes / row_bytes, static_cast<size_t>(most)));
  return std::max(fit / kLibraryRows, 4) * kLibraryRows;
}

// Allocates, and counts what it took.
template <class T>
Status take(CudaArray<T>& array, size_t count, uint64_t& bytes) {
  VKV_TRY_ASSIGN(made, CudaArray<T>::make(count));
  array = std::move(made);
  bytes += round_up_bytes(count * sizeof(T), 512);
  return {};
}

// Collects units until a piece is full.
class Cutter {
 public:
  explicit Cutter(const PrefillLimits& limits) : limits_(limits) {}

  // Begins a new piece unless so many tokens and units still fit into this one.
  void need(int token_count, int unit_count) {
    if (cuts_.empty() || cuts_.back().token_count + token_count > limits_.token_count ||
        static_cast<int>(cuts_.back().units.size()) + unit_count > limits_.unit_count)
      cuts_.emplace_back();
  }

  void add(const PrefillUnit& unit) {
    need(unit.block.token_count, 1);
    PrefillCut& cut = cuts_.back();
    cut.units.push_back(unit);
    cut.token_count += unit.block.token_count;
    cut.any_bf16 |= unit.block.k_codec == Codec::kBf16 || unit.block.v_codec == Codec::kBf16;
    cut.any_mask |= unit.block.live != nullptr;
  }

  void add_open(const AttendItem& item, int begin, int end) {
    const int step = tokens_per_block(item.shape.head_dim);
    const size_t width = static_cast<size_t>(item.shape.kv_heads * item.shape.head_dim);
    for (int first = begin; first < end; first += step)
      add({.block = {.k_codec = item.open.codec,
                     .v_codec = item.open.codec,
                     .token_count = std::min(step, end - first)},
           .open_k = item.open.k + static_cast<size_t>(first) * width,
           .open_v = item.open.v + static_cast<size_t>(first) * width});
  }

  std::vector<PrefillCut> take() { return std::move(cuts_); }

 private:
  const PrefillLimits limits_;
  std::vector<PrefillCut> cuts_;
};

}  // namespace

PrefillLimits prefill_limits(const KvShape& shape) {
  const auto kv = static_cast<size_t>(shape.kv_heads * shape.head_dim);
  const auto q = static_cast<size_t>(shape.q_heads * shape.head_dim);
  return {.token_count = as_many(kTokenBytes, 2 * kv * sizeof(uint16_t), kTokensMost),
          .query_count = as_many(kQueryBytes, 2 * q * sizeof(uint16_t), kQueriesMost),
          .unit_count = kUnitsMost};
}

std::vector<PrefillCut> cut_prefill(const AttendItem& item, const PrefillLimits& limits) {
  Cutter cutter(limits);
  for (const BlockView& block : item.blocks) cutter.add({.block = block});
  const int own = item.causal ? item.q_len : 0;
  const int step = tokens_per_block(item.shape.head_dim);
  cutter.add_open(item, 0, item.open.token_count - own);
  if (own > 0) cutter.need(own, (own + step - 1) / step);
  cutter.add_open(item, item.open.token_count - own, item.open.token_count);
  return cutter.take();
}

Result<GpuPrefill> GpuPrefill::make(const KvShape& shape, cudaStream_t stream) {
  return make(shape, prefill_limits(shape), stream);
}

Result<GpuPrefill> GpuPrefill::make(const KvShape& shape, const PrefillLimits& limits,
                                    cudaStream_t stream) {
  VKV_TRY_ASSIGN(library, CudnnAttention::make({.q_heads = shape.q_heads,
                                                .kv_heads = shape.kv_heads,
                                                .head_dim = shape.head_dim,
                                                .query_count_max = limits.query_count,
                                                .token_count_max = limits.token_count + 1}));
  GpuPrefill prefill(shape, limits, std::move(library));
  VKV_TRY(prefill.make_room(stream));
  return Result<GpuPrefill>(std::move(prefill));
}

Status GpuPrefill::make_room(cudaStream_t stream) {
  const auto tokens = static_cast<size_t>(limits_.token_count + 1);  // see CudnnAttentionShape
  const auto queries = static_cast<size_t>(limits_.query_count);
  const auto units = static_cast<size_t>(limits_.unit_count);
  const auto kv = static_cast<size_t>(shape_.kv_heads * shape_.head_dim);
  const auto q = static_cast<size_t>(shape_.q_heads * shape_.head_dim);
  VKV_TRY(take(k_, tokens * kv, work_bytes_));
  VKV_TRY(take(v_, tokens * kv, work_bytes_));
  VKV_TRY(take(q_, queries * q, work_bytes_));
  VKV_TRY(take(out_, queries * q, work_bytes_));
  VKV_TRY(take(lse_, queries * static_cast<size_t>(shape_.q_heads), work_bytes_));
  VKV_TRY(take(units_, units, work_bytes_));
  VKV_TRY(take(unit_begin_, units + 1, work_bytes_));
  VKV_TRY(take(counts_, 2, work_bytes_));
  VKV_TRY(take(magnitude_, 2, work_bytes_));
  VKV_TRY(take(library_work_, kCudnnWorkBytes, work_bytes_));
  // Behind live tokens the library reads on and gives what it finds the weight 0, which only makes
  // 0 of what is finite. Everything ever written there is.
  for (const auto* array : {&k_, &v_, &q_})
    VKV_TRY(cuda_status(cudaMemsetAsync(array->data(), 0, array->size() * sizeof(uint16_t), stream),
                        "cudaMemsetAsync"));
  return {};
}

bool GpuPrefill::pays(const AttendItem& item) const {
  if (item.q_len < kQueriesLeast || item.shape.q_heads != shape_.q_heads ||
      item.shape.kv_heads != shape_.kv_heads || item.shape.head_dim != shape_.head_dim)
    return false;
  int64_t tokens = item.open.token_count, cost = kHalfTokenCost * tokens;
  for (const BlockView& block : item.blocks) {
    tokens += block.token_count;
    cost += (is_16_bit(block.k_codec) ? kHalfTokenCost : 1) * block.token_count;
  }
  return tokens > 0 && int64_t{item.q_len} * shape_.q_heads * cost >= kRowsThatPay * tokens;
}

Status GpuPrefill::attend(const AttendItem& item, cudaStream_t stream) {
  // A piece must hold all that these queries see of each other.
  const int most = limits_.token_count / 2;
  const auto heads = static_cast<size_t>(shape_.q_heads);
  for (int begin = 0; begin < item.q_len; begin += most) {
    const int end = std::min(item.q_len, begin + most);
    AttendItem some = item;
    const size_t at = static_cast<size_t>(begin) * heads;
    some.q = item.q + at * static_cast<size_t>(shape_.head_dim);
    some.out = item.out + at * static_cast<size_t>(shape_.head_dim);
    some.lse = item.lse + at;
    some.q_len = end - begin;
    if (item.causal) some.open.token_count -= item.q_len - end;
    VKV_TRY(attend_some(some, stream));
  }
  return {};
}

Status GpuPrefill::attend_some(const AttendItem& item, cudaStream_t stream) {
  const std::vector<PrefillCut> cuts = cut_prefill(item, limits_);
  for (const PrefillCut& cut : cuts) {
    VKV_TRY(decode(item, cut, stream));
    VKV_TRY(attend_piece(item, cut, &cut == &cuts.front(), &cut == &cuts.back(), stream));
  }
  return {};
}

Status GpuPrefill::decode(const AttendItem& item, const PrefillCut& cut, cudaStream_t stream) {
  // From pageable memory: the copy is staged before the call returns.
  VKV_TRY(copy_async(units_.data(), cut.units.data(), cut.units.size(), stream));
  return launch_decode_records({.shape = shape_,
                                .units = units_.data(),
                                .unit_count = static_cast<int>(cut.units.size()),
                                .any_bf16 = cut.any_bf16,
                                .k_mean = item.k_mean,
                                .token_count_max = limits_.token_count + 1,
                                .k = k_.data(),
                                .v = v_.data(),
                                .unit_begin = unit_begin_.data(),
                                .magnitude = magnitude_.data()},
                               stream);
}

Status GpuPrefill::attend_piece(const AttendItem& item, const PrefillCut& cut, bool is_first,
                                bool is_last, cudaStream_t stream) {
  const bool causal = item.causal && is_last;
  // Parts of like size: a few queries take as long as many.
  const int parts = (item.q_len + limits_.query_count - 1) / limits_.query_count;
  const int step = (item.q_len + parts - 1) / parts;
  for (int begin = 0; begin < item.q_len; begin += step) {
    const int end = std::min(item.q_len, begin + step);
    const size_t at = static_cast<size_t>(begin) * static_cast<size_t>(shape_.q_heads);
    const size_t value = at * static_cast<size_t>(shape_.head_dim);
    VKV_TRY(launch_prefill_queries({.shape = shape_,
                                    .scale = item.scale,
                                    .query_count = end - begin,
                                    .hidden_tokens = causal ? item.q_len - end : 0,
                                    .q = item.q + value,
                                    .piece_tokens = unit_begin_.data() + cut.units.size(),
                                    .magnitude = magnitude_.data(),
                                    .q_half = q_.data(),
                                    .counts = counts_.data()},
                                   stream));
    VKV_TRY(library_.run({.query_count = end - begin,
                          .token_count = cut.token_count - (causal ? item.q_len - end : 0),
                          .q = q_.data(),
                          .k = k_.data(),
                          .v = v_.data(),
                          .live_counts = cut.any_mask ? counts_.data() : nullptr,
                          .causal = causal,
                          .out = out_.data(),
                          .lse = lse_.data(),
                          .work = library_work_.data()},
                         stream));
    VKV_TRY(launch_prefill_merge({.shape = shape_,
                                  .query_count = end - begin,
                                  .query_count_max = limits_.query_count,
                                  .first = is_first,
                                  .out = out_.data(),
                                  .lse = lse_.data(),
                                  .token_count = counts_.data() + 1,
                                  .magnitude = magnitude_.data(),
                                  .merged_out = item.out + value,
                                  .merged_lse = item.lse + at},
                                 stream));
  }
  return {};
}

}  // namespace vkv
