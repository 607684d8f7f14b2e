// measure_tile.cpp: each part again and again on the same tile.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/measure_tile.h"

#include <tbb/cache_aligned_allocator.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "cpu/merge.h"
#include "cpu/tile_worker.h"
#include "runtime/base/block_format.h"
#include "runtime/base/codec.h"

namespace vkv {
namespace {

// The fastest of so many rounds counts: short ones, so that some are left alone by other programs.
constexpr int kRounds = 40;
constexpr int kCalls = 64;
constexpr int kBlocks = static_cast<int>(kTaskBlocks);  // of the whole, all the same one

template <class T>
using Buffer = std::vector<T, tbb::cache_aligned_allocator<T>>;

template <class Body>
double nanoseconds(const Body& body, int calls = kCalls) {
  body();
  double least = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) body();
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - begin;
    least = std::min(least, taken.count() / calls);
  }
  return least;
}

// One KV head's record and what the loops read and write, for a full tile of `tokens`.
struct TileMemory {
  TileMemory(Codec codec, int rows, int head_dim)
      : channels(padded_channels(head_dim)),
        layout(block_layout(1, head_dim, codec, codec, kTileTokens)),
        record(layout.record_bytes()),
        q(room(rows) * static_cast<size_t>(channels), 0.5f),
        floats(room(rows) * 256, 0.25f),
        scores(room(rows) * kTileTokens),
        out(room(rows) * static_cast<size_t>(channels)),
        lanes(256, 0.01f),
        row_values(room(rows), 1.0f),
        doubles(256, 0.5),
        betas(room(rows)),
        planes(room(2 * rows) * 256 + 64, 1),
        sums(room(2 * rows) * 256, 1000),
        visible(room(rows), kTileTokens) {
    std::mt19937 random(1);
    for (std::byte& byte : record) byte = static_cast<std::byte>(random());
    auto* const scales = reinterpret_cast<uint16_t*>(record.data());
    for (size_t i = 0; i < layout.head_header / 2; ++i) scales[i] = half_from_float(0.02f);
    if (is_16_bit(codec))
      for (size_t i = 0; i < record.size() / 2; ++i)
        scales[i] = float_to_16_bit(codec, static_cast<float>(random() % 256) / 256.0f);
    for (float& x : q) x = static_cast<float>(random() % 256) / 256.0f;
  }

  static size_t room(int rows) { return static_cast<size_t>(round_up(rows, kRowRoom)); }

  const int channels;
  const BlockLayout layout;
  Buffer<std::byte> record;
  Buffer<float> q, floats, scores, out, lanes, row_values;
  Buffer<double> doubles, betas;
  Buffer<uint8_t> planes;
  Buffer<int32_t> sums;
  Buffer<int> visible;
};

Status measure_codes(TileWorker& worker, TileEngine engine, const TileFunctions& functions,
                     Codec codec, int rows, TileMemory& m, TileParts& ns) {
  const std::byte* const payload = m.record.data() + m.layout.payload_offset();
  const CodeTile k = {payload, bits_of(codec), m.channels, 0, kTileTokens, 0, m.channels};
  const CodeTile v = {
      payload + m.layout.k_payload, bits_of(codec), kTileTokens, 0, m.channels, 0, kTileTokens};
  Status status;
  const auto both = [&] {
    status = worker.products->multiply_codes(
        k, {m.planes.data(), 2 * rows, m.channels, /*is_signed=*/true},
        Rows<int32_t>{m.sums.data(), 2 * rows, kTileTokens});
    if (!status.ok()) return;
    status = worker.products->multiply_codes(
        v, {m.planes.data(), 2 * rows, kTileTokens, /*is_signed=*/false},
        Rows<int32_t>{m.sums.data(), 2 * rows, m.channels});
  };
  ns.products = nanoseconds(both);
  VKV_TRY(status);
  if (engine == TileEngine::kOnednn) {
    Buffer<uint8_t> panels(static_cast<size_t>(kTileTokens) * round_up(m.channels, kPanelWidth));
    ns.unpack = nanoseconds([&] {
      functions.unpack_bytes(k, panels.data());
      functions.unpack_bytes(v, panels.data());
    });
    ns.products -= ns.unpack;
  }
  const Buffer<double> wide_q(m.q.begin(), m.q.end());
  ns.queries = nanoseconds([&] {
    const auto* halves = reinterpret_cast<const uint16_t*>(m.record.data());
    functions.load_key_scales(halves, m.channels, 0, m.lanes.data(), m.doubles.data());
    functions.make_query_planes(m.q.data(), wide_q.data(), rows, m.channels, m.lanes.data(),
                                m.doubles.data(), 7,
                                {m.planes.data(), m.row_values.data(), m.betas.data(), nullptr});
  });
  std::fill(m.sums.begin(), m.sums.end(), 1000);
  ns.scores = nanoseconds([&] {
    functions.scores_from_planes(m.sums.data(), rows, kTileTokens, m.lanes.data(), 0.1f,
                                 m.scores.data());
  });
  return {};
}

Status measure_halves(TileWorker& worker, Codec codec, int rows, TileMemory& m, TileParts& ns) {
  const auto* values = reinterpret_cast<const uint16_t*>(m.record.data());
  const HalfTile k = {values,      static_cast<size_t>(m.channels),
                      kTileTokens, m.channels,
                      m.channels,  codec == Codec::kBf16};
  const HalfTile v = {values + m.layout.k_payload / 2,
                      kTileTokens,
                      m.channels,
                      kTileTokens,
                      kTileTokens,
                      codec == Codec::kBf16};
  Status status;
  ns.products = nanoseconds([&] {
    status = worker.products->multiply_halves(k, {m.q.data(), rows, m.channels}, 1,
                                              {m.scores.data(), rows, kTileTokens});
    if (!status.ok()) return;
    status = worker.products->multiply_halves(v, {m.floats.data(), rows, kTileTokens}, 0,
                                              {m.out.data(), rows, m.channels});
  });
  return status;
}

Status measure_whole(TileWorker& worker, Codec codec, int rows, int head_dim, TileMemory& m,
                     TileParts& ns) {
  const KvShape shape = {.layers = 1, .q_heads = rows, .kv_heads = 1, .head_dim = head_dim};
  const BlockView block = {.k_codec = codec,
                           .v_codec = codec,
                           .token_count = kTileTokens,
                           .headers = is_16_bit(codec) ? nullptr : m.record.data(),
                           .payload = m.record.data() + m.layout.payload_offset()};
  // Two copies by turns: a header that comes twice is loaded once.
  const Buffer<std::byte> copy = m.record;
  BlockView twin = block;
  if (block.headers != nullptr) twin.headers = copy.data();
  twin.payload = copy.data() + m.layout.payload_offset();
  std::vector<BlockView> blocks(kBlocks, block);
  for (size_t i = 1; i < blocks.size(); i += 2) blocks[i] = twin;
  std::vector<float> lse(static_cast<size_t>(rows));
  const AttendItem item = {.shape = shape,
                           .scale = 0.1f,
                           .q_len = 1,
                           .q = m.q.data(),
                           .blocks = blocks,
                           .out = m.out.data(),
                           .lse = lse.data()};
  Status status;
  ns.whole = nanoseconds(
                 [&] {
                   status = worker.attention.attend(
                       {&item, 0, 0, 1, blocks, false, m.out.data(), lse.data()});
                 },
                 kCalls / kBlocks) /
             kBlocks;
  return status;
}

// Of one partial, when some are merged that lie in a cache.
double merge_nanoseconds(int rows, int head_dim) {
  constexpr size_t kPartials = 8;
  const size_t row_count = static_cast<size_t>(rows);
  const std::vector<float> out(kPartials * row_count * static_cast<size_t>(head_dim), 0.5f);
  const std::vector<float> lse(kPartials * row_count, 1.0f);
  std::vector<PartialView> partials;
  for (size_t i = 0; i < kPartials; ++i)
    partials.push_back({out.data() + i * out.size() / kPartials, lse.data() + i * row_count});
  std::vector<float> merged(out.size() / kPartials), merged_lse(row_count);
  const MergeItem item = {.head_dim = head_dim,
                          .row_count = row_count,
                          .partials = partials,
                          .out = merged.data(),
                          .lse = merged_lse.data()};
  return nanoseconds([&] { merge_partials({&item, 1}); }) / kPartials;
}

}  // namespace

Result<TileParts> measure_tile_parts(TileEngine engine, Codec codec, int rows, int head_dim) {
  VKV_TRY(can_run(engine));
  const MatrixUnit unit = matrix_unit();
  const TileFunctions& functions = tile_functions_for(unit);
  BrgemmCache kernels;
  TileWorker worker({&engine, 1}, unit, kernels);
  TileMemory m(codec, rows, head_dim);
  TileParts ns;
  if (is_16_bit(codec)) {
    VKV_TRY(measure_halves(worker, codec, rows, m, ns));
  } else {
    VKV_TRY(measure_codes(worker, engine, functions, codec, rows, m, ns));
  }
  worker.products->release();
  const TileWeights weights = {rows,
                               m.visible.data(),
                               kTileTokens,
                               m.scores.data(),
                               m.planes.data(),
                               m.row_values.data(),
                               m.row_values.data(),
                               nullptr};
  const TileOutput output = {rows,           m.channels,     m.lanes.data(),
                             m.lanes.data(), m.lanes.data(), m.lanes.data(),
                             m.lanes.data(), m.out.data(),   nullptr};
  std::fill(m.scores.begin(), m.scores.end(), 0.5f);
  if (is_16_bit(codec)) {
    ns.softmax = nanoseconds([&] { functions.softmax_floats(weights); });
    ns.outputs = nanoseconds([&] { functions.add_products(m.floats.data(), output); });
  } else {
    ns.softmax = nanoseconds([&] { functions.softmax_planes(weights); });
    ns.outputs = nanoseconds([&] { functions.add_plane_products(m.sums.data(), output); });
  }
  ns.merge = merge_nanoseconds(rows, head_dim) / kBlocks;
  VKV_TRY(measure_whole(worker, codec, rows, head_dim, m, ns));
  ns.whole += ns.merge;
  for (double* part : {&ns.unpack, &ns.products, &ns.queries, &ns.scores, &ns.softmax, &ns.outputs,
                       &ns.merge, &ns.whole})
    *part /= kTileTokens;
  return ns;
}

}  // namespace vkv
