// cpu_records.cpp: fills memory with copies of a pool of random bytes.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/cpu_records.h"

#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "cpu/parallel.h"
#include "cpu/threads.h"
#include "runtime/base/block_format.h"
#include "runtime/base/codec.h"
#include "transfer/node_memory.h"

namespace vkv {
namespace {

constexpr size_t kPoolBytes = size_t{1} << 20;
constexpr size_t kPoolShift = 65521 * size_t{2};  // no two records begin at the same place
constexpr int kLayersMax = 256;
constexpr double kFillNs = 1e9;  // long enough to be worth all threads
constexpr uint64_t kExtentBytesMax = CacheOptions{}.extent_bytes_max;

struct Pools {
  std::vector<std::byte> codes = std::vector<std::byte>(2 * kPoolBytes);
  std::vector<uint16_t> halves = std::vector<uint16_t>(kPoolBytes);  // fp16
  std::vector<uint16_t> bfloats = std::vector<uint16_t>(kPoolBytes);
  std::vector<uint16_t> scales = std::vector<uint16_t>(kPoolBytes);  // fp16

  Pools() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (std::byte& byte : codes) byte = static_cast<std::byte>(random());
    for (size_t i = 0; i < kPoolBytes; ++i) {
      const float value = normal(random);
      halves[i] = half_from_float(value);
      bfloats[i] = float_to_16_bit(Codec::kBf16, value);
      scales[i] = half_from_float(0.01f + 0.01f * std::abs(value));
    }
  }

  const void* of(Codec codec, size_t shift) const {
    const size_t at = shift % (kPoolBytes / 2) & ~size_t{31};
    if (codec == Codec::kF16) return halves.data() + at;
    if (codec == Codec::kBf16) return bfloats.data() + at;
    return codes.data() + at;
  }
};

// One block's record. Payloads of a KV head are far smaller than a pool.
void fill_record(const BlockLayout& layout, const CodecPair& pair, const Pools& pools, size_t shift,
                 std::byte* record) {
  const size_t scale_bytes = layout.headers_bytes();
  for (size_t at = 0; at < scale_bytes; at += layout.head_header)
    std::memcpy(record + at, pools.scales.data() + shift % 4096, layout.head_header);
  std::byte* const payload = record + layout.payload_offset();
  for (int head = 0; head < layout.kv_heads; ++head) {
    const size_t from = shift + static_cast<size_t>(head) * 4099;
    std::memcpy(payload + layout.k_of(head), pools.of(pair.k, from), layout.k_payload);
    std::memcpy(payload + layout.v_of(head), pools.of(pair.v, from + 977), layout.v_payload);
  }
}

}  // namespace

CpuRecords::CpuRecords(const CpuRecordsOptions& options) : options_(options) {
  const KvShape& shape = options.shape;
  const CodecPair& pair = options.codecs;
  const int block_tokens = tokens_per_block(shape.head_dim);
  options_.open_tokens = std::min(options.open_tokens, options.token_count);
  const int sealed = options.token_count - options_.open_tokens;
  const size_t block_count = static_cast<size_t>((sealed + block_tokens - 1) / block_tokens);
  const BlockLayout full = block_layout(shape.kv_heads, shape.head_dim, pair.k, pair.v,
                                        block_tokens, false, pair.v_per_token);
  const size_t record_bytes = full.record_bytes();
  const size_t per_extent =
      std::max<size_t>(1, std::min(block_count, kExtentBytesMax / record_bytes));
  const size_t extent_bytes = round_up_bytes(per_extent * record_bytes, kExtentAlignment);
  const size_t extent_count = (block_count + per_extent - 1) / per_extent;
  const size_t open_values = static_cast<size_t>(options_.open_tokens) *
                             static_cast<size_t>(shape.kv_heads * shape.head_dim);
  const size_t open_bytes = round_up_bytes(4 * open_values, kExtentAlignment);
  const size_t sequence_bytes = extent_count * extent_bytes + open_bytes;
  layer_bytes_ =
      (block_count * record_bytes + 4 * open_values) * static_cast<uint64_t>(options.batch);
  layer_count_ =
      static_cast<int>(std::clamp<uint64_t>(options.byte_count / layer_bytes_ + 1, 2, kLayersMax));
  mean_.assign(static_cast<size_t>(shape.kv_heads * shape.head_dim), 0.25f);

  const size_t sequence_count = static_cast<size_t>(layer_count_) * options.batch;
  memory_ = allocate_for_bench(sequence_count * sequence_bytes);
  advise_huge_pages(memory_.get(), sequence_count * sequence_bytes);
  sequences_.resize(sequence_count);
  for (size_t i = 0; i < sequence_count; ++i) {
    std::byte* const base = memory_.get() + i * sequence_bytes;
    sequences_[i].extents.resize(extent_count);
    sequences_[i].nodes.assign(extent_count, kUnknownNode);
    for (size_t e = 0; e < extent_count && !options.nodes.empty(); ++e) {
      const int node = options.nodes[node_of_turn(i * extent_count + e, options.nodes.size())];
      if (prefer_node({base + e * extent_bytes, extent_bytes}, node)) sequences_[i].nodes[e] = node;
    }
    for (size_t b = 0; b < block_count; ++b) {
      std::byte* const record =
          base + b / per_extent * extent_bytes + b % per_extent * record_bytes;
      const int tokens = std::min(block_tokens, sealed - static_cast<int>(b) * block_tokens);
      const BlockLayout layout = block_layout(shape.kv_heads, shape.head_dim, pair.k, pair.v,
                                              tokens, false, pair.v_per_token);
      sequences_[i].extents[b / per_extent].push_back(
          {.k_codec = pair.k,
           .v_codec = pair.v,
           .centred = !is_16_bit(pair.k),
           .k_rotated = pair.k_rotated,
           .v_per_token = pair.v_per_token,
           .token_count = tokens,
           .headers = layout.head_header == 0 ? nullptr : record,
           .payload = record + layout.payload_offset()});
    }
    auto* const open = reinterpret_cast<uint16_t*>(base + extent_count * extent_bytes);
    sequences_[i].open = {.codec = pair.k == Codec::kBf16 ? Codec::kBf16 : Codec::kF16,
                          .token_count = options_.open_tokens,
                          .k = open,
                          .v = open + open_values};
  }

  const Pools pools;
  tbb::task_arena arena(worker_threads(options.threads));
  arena.execute([&] {
    parallel_tasks(sequence_count * (block_count + 1), kFillNs, [&](size_t i) {
      const Sequence& sequence = sequences_[i / (block_count + 1)];
      const size_t b = i % (block_count + 1);
      if (b < block_count) {
        const BlockView& view = sequence.extents[b / per_extent][b % per_extent];
        const BlockLayout layout = block_layout(shape, view);
        std::byte* const payload = const_cast<std::byte*>(view.payload);
        fill_record(layout, pair, pools, i * kPoolShift, payload - layout.payload_offset());
        return;
      }
      auto* const open = const_cast<uint16_t*>(sequence.open.k);
      const auto& source = sequence.open.codec == Codec::kBf16 ? pools.bfloats : pools.halves;
      for (size_t value = 0; value < 2 * open_values; ++value)
        open[value] = source[(i * 31 + value) % kPoolBytes];
    });
  });
}

std::vector<AttendItem> CpuRecords::items(int layer) const {
  std::vector<AttendItem> items;
  const float scale = 1.0f / std::sqrt(static_cast<float>(options_.shape.head_dim));
  for (int i = 0; i < options_.batch; ++i) {
    const Sequence& sequence = sequences_[static_cast<size_t>(layer * options_.batch + i)];
    const AttendItem item = {.shape = options_.shape, .scale = scale, .k_mean = mean_.data()};
    for (size_t e = 0; e < sequence.extents.size(); ++e) {
      items.push_back(item);
      items.back().blocks = sequence.extents[e];
      items.back().node = sequence.nodes[e];
    }
    items.push_back(item);
    items.back().open = sequence.open;
  }
  return items;
}

}  // namespace vkv
