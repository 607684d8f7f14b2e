// bench_encode.cpp: fills memory with tokens, measures memcpy and each codec over it.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_encode.h"

#include <fmt/format.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cpu/cpu_backend.h"
#include "cpu/parallel.h"
#include "cpu/threads.h"
#include "runtime/base/codec.h"
#include "tools/vkv/bench_parts.h"
#include "tools/vkv/byte_size.h"

namespace vkv {
namespace {

constexpr int kBlockTokens = 128;
constexpr int kCachedBlocks = 4;
constexpr size_t kCopyBytes = size_t{256} << 20;

double memcpy_gb_s(int threads, int repetitions) {
  const BenchMemory source = allocate_for_bench(kCopyBytes),
                    target = allocate_for_bench(kCopyBytes);
  std::memset(source.get(), 1, kCopyBytes);
  tbb::task_arena arena(threads);
  const size_t piece = kCopyBytes / 256;
  const double seconds = median_seconds(repetitions, [&] {
    arena.execute([&] {
      parallel_tasks(256, 1e9, [&](size_t i) {
        std::memcpy(target.get() + i * piece, source.get() + i * piece, piece);
      });
    });
  });
  return static_cast<double>(kCopyBytes) / seconds / 1e9;
}

// K and V of blocks, [blocks, tokens, kv_heads, head_dim] each, normal values with an offset and a
// size of its own for each channel.
class Source {
 public:
  Source(const KvShape& shape, int blocks)
      : shape_(shape),
        block_values_(size_t{kBlockTokens} * static_cast<size_t>(shape.kv_heads * shape.head_dim)),
        bytes_(
            allocate_for_bench(2 * block_values_ * sizeof(uint16_t) * static_cast<size_t>(blocks))),
        values_(reinterpret_cast<uint16_t*>(bytes_.get())) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    const size_t width = static_cast<size_t>(shape.kv_heads * shape.head_dim);
    std::vector<float> offset(width), size(width);
    for (float& x : offset) x = 3 * normal(random);
    for (float& x : size) x = std::exp(0.5f * normal(random));
    std::vector<uint16_t> pool(block_values_ * 8);
    for (size_t i = 0; i < pool.size(); ++i)
      pool[i] = half_from_float(offset[i % width] + size[i % width] * normal(random));
    for (size_t i = 0; i < 2 * static_cast<size_t>(blocks); ++i) {
      const size_t token = random() % (7 * kBlockTokens);
      std::copy_n(&pool[token * width], block_values_, values_ + i * block_values_);
    }
  }

  OpenTokens block(int index) const {
    const uint16_t* k = values_ + 2 * static_cast<size_t>(index) * block_values_;
    return {.codec = Codec::kF16, .token_count = kBlockTokens, .k = k, .v = k + block_values_};
  }
  double block_bytes() const { return 2.0 * sizeof(uint16_t) * static_cast<double>(block_values_); }

 private:
  KvShape shape_;
  size_t block_values_;
  BenchMemory bytes_;
  uint16_t* values_;
};

struct Row {
  std::string what;
  double gb_s;       // of 16-bit input
  double ns;         // a value, all threads together
  double cached_ns;  // the same where a few blocks are encoded again and again
};

struct Pair {
  const char* what;
  Codec codec;
  bool k_rotated, v_per_token;
};

constexpr Pair kPairs[] = {{"F16 / F16", Codec::kF16, false, false},
                           {"I8 / I8", Codec::kI8, false, false},
                           {"I4 / I4", Codec::kI4, false, false},
                           {"I2 / I2", Codec::kI2, false, false},
                           {"I1 / I1", Codec::kI1, false, false},
                           {"I2 rotated / I2 per token", Codec::kI2, true, true}};

Result<Row> measure(Backend& backend, const BenchEncodeArguments& arguments, const KvShape& shape,
                    const Source& source, std::byte* records, const Pair& pair,
                    const std::vector<float>& mean) {
  std::vector<uint32_t> rows(kBlockTokens);
  std::iota(rows.begin(), rows.end(), 0u);
  std::vector<EncodeItem> items;
  for (int i = 0; i < arguments.blocks; ++i) {
    EncodeItem item = {.shape = shape,
                       .k_codec = pair.codec,
                       .v_codec = pair.codec,
                       .k_rotated = pair.k_rotated,
                       .v_per_token = pair.v_per_token,
                       .source = source.block(i),
                       .rows = rows,
                       .k_mean = mean.data()};
    const size_t record_bytes = block_layout(item).record_bytes();
    item.record = {records + static_cast<size_t>(i) * record_bytes, record_bytes};
    items.push_back(item);
  }
  Status status = backend.encode(std::span(items).first(1));
  VKV_TRY(status);
  const double seconds =
      median_seconds(arguments.repetitions, [&] { status = backend.encode(items); });
  VKV_TRY(status);
  const size_t cached = std::min<size_t>(kCachedBlocks, items.size());
  const double cached_seconds = median_seconds(
      20 * arguments.repetitions, [&] { status = backend.encode(std::span(items).first(cached)); });
  VKV_TRY(status);
  const double block_values = source.block_bytes() / 2;
  return Row{pair.what, source.block_bytes() * arguments.blocks / seconds / 1e9,
             seconds * 1e9 / (block_values * arguments.blocks),
             cached_seconds * 1e9 / (block_values * static_cast<double>(cached))};
}

}  // namespace

Status bench_encode(const BenchEncodeArguments& arguments) {
  const KvShape shape = {.layers = 1,
                         .q_heads = arguments.kv_heads,
                         .kv_heads = arguments.kv_heads,
                         .head_dim = arguments.head_dim};
  VKV_TRY(validate(shape));
  if (arguments.blocks < 1 || arguments.repetitions < 1)
    return {Code::kInvalidArgument, "--blocks and --repetitions must be positive"};
  VKV_TRY_ASSIGN(backend, make_cpu_backend({.threads = arguments.threads}));
  const int threads =
      arguments.threads > 0 ? std::min(arguments.threads, usable_threads()) : usable_threads();
  const double copy_gb_s = memcpy_gb_s(threads, arguments.repetitions);
  const Source source(shape, arguments.blocks);
  const std::vector<float> mean(static_cast<size_t>(shape.kv_heads * shape.head_dim), 0.5f);
  const BlockLayout largest =
      block_layout(shape.kv_heads, shape.head_dim, Codec::kF16, Codec::kF16, kBlockTokens);
  const BenchMemory records =
      allocate_for_bench(largest.record_bytes() * static_cast<size_t>(arguments.blocks));

  nlohmann::json json = {{"engine", backend->name()},
                         {"threads", threads},
                         {"memcpy_gb_s", copy_gb_s},
                         {"rows", nlohmann::json::array()}};
  if (!arguments.json) {
    fmt::print("engine   {}, {} threads\n", backend->name(), threads);
    fmt::print("input    {} blocks of {} tokens, {} KV heads x {} channels: {}\n", arguments.blocks,
               kBlockTokens, shape.kv_heads, shape.head_dim,
               byte_size_text(static_cast<uint64_t>(source.block_bytes() * arguments.blocks)));
    fmt::print("memcpy   {:.2f} GB/s (256 MiB, bytes copied once)\n\n", copy_gb_s);
    fmt::print("{:<26} {:>6} {:>9} {:>9} {:>15}\n", "K / V", "GB/s", "of memcpy", "ns/value",
               "ns/value cached");
  }
  for (const Pair& pair : kPairs) {
    if (pair.k_rotated && (shape.head_dim & (shape.head_dim - 1)) != 0) continue;
    VKV_TRY_ASSIGN(row, measure(*backend, arguments, shape, source, records.get(), pair, mean));
    json["rows"].push_back({{"codecs", row.what},
                            {"gb_s", row.gb_s},
                            {"of_memcpy", row.gb_s / copy_gb_s},
                            {"ns", row.ns},
                            {"cached_ns", row.cached_ns}});
    if (!arguments.json)
      fmt::print("{:<26} {:>6.2f} {:>7.1f} % {:>9.3f} {:>15.3f}\n", row.what, row.gb_s,
                 100 * row.gb_s / copy_gb_s, row.ns, row.cached_ns);
  }
  if (arguments.json) fmt::print("{}\n", json.dump(1));
  return {};
}

}  // namespace vkv
