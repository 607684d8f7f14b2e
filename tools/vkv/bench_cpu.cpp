// bench_cpu.cpp: fills a cache with random tokens and attends to them, layer after layer.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_cpu.h"

#include <fmt/format.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "cpu/parallel.h"
#include "cpu/threads.h"
#include "runtime/base/block_format.h"
#include "runtime/base/codec.h"
#include "tools/vkv/bench_parts.h"
#include "tools/vkv/byte_size.h"
#include "tools/vkv/policy_file.h"
#include "vkv/cache.h"

namespace vkv {
namespace {

constexpr uint64_t kCacheBytes = uint64_t{768} << 20;  // of records: several times any L3
constexpr size_t kReadBytes = size_t{1} << 30;
constexpr size_t kReadPiece = size_t{1} << 20;
constexpr int kWindow = 2048;       // tokens of one append
constexpr int kRecentTokens = 128;  // the default of a cache
constexpr int kLayersMax = 256;
constexpr double kBudgetSlack = 1.2;

uint64_t sum_of(const uint64_t* words, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < count; i += 8)
    for (size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
  uint64_t sum = 0;
  for (const uint64_t one : sums) sum += one;
  return sum;
}

// Bytes a second that so many threads read of memory which they touched first.
double read_speed(int threads, int repetitions) {
  const BenchMemory memory = allocate_for_bench(kReadBytes);
  auto* const words = reinterpret_cast<uint64_t*>(memory.get());
  tbb::task_arena arena(threads);
  constexpr size_t kWords = kReadPiece / sizeof(uint64_t);
  const auto over_pieces = [&](const auto& body) {
    arena.execute([&] { parallel_tasks(kReadBytes / kReadPiece, 1e9, body); });
  };
  over_pieces([&](size_t i) { std::fill_n(words + i * kWords, kWords, i); });
  std::atomic<uint64_t> sum = 0;
  const double seconds = median_seconds(repetitions, [&] {
    over_pieces([&](size_t piece) { sum += sum_of(words + piece * kWords, kWords); });
  });
  if (sum == 1) std::fputs("", stderr);  // so that the sums are made
  return static_cast<double>(kReadBytes) / seconds;
}

// Normal values as bf16 bits.
std::vector<uint16_t> random_values(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> pool(65521);  // a prime: no channel sees the same values twice in a row
  for (uint16_t& value : pool) value = float_to_16_bit(Codec::kBf16, normal(random));
  std::vector<uint16_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = pool[i % pool.size()];
  return values;
}

struct Measured {
  uint64_t bytes = 0;  // of a layer, all sequences: records, and the open tokens
  double seconds = 0;  // of one call
};

class Run {
 public:
  Run(const BenchCpuArguments& arguments, const KvShape& shape, CodecPair pair)
      : arguments_(arguments), shape_(shape), pair_(pair) {
    const BlockLayout block = block_layout(shape.kv_heads, shape.head_dim, pair.k, pair.v,
                                           tokens_per_block(shape.head_dim));
    const uint64_t layer_bytes =
        static_cast<uint64_t>(block.record_bytes()) *
        static_cast<uint64_t>((arguments.tokens + tokens_per_block(shape.head_dim) - 1) /
                              tokens_per_block(shape.head_dim)) *
        static_cast<uint64_t>(arguments.batch);
    shape_.layers =
        static_cast<int>(std::clamp<uint64_t>(kCacheBytes / layer_bytes + 1, 2, kLayersMax));
    budget_ =
        static_cast<uint64_t>(kBudgetSlack * static_cast<double>(layer_bytes) * shape_.layers) +
        (uint64_t{256} << 20);
  }

  Result<Measured> measure() {
    VKV_TRY(fill());
    const std::vector<uint16_t> q = random_values(query_values(), 2);
    std::vector<uint16_t> out(query_values());
    const std::vector<AttendRequest> all = requests(q.data(), out.data(), arguments_.q_len);
    Status status;
    const double seconds = median_seconds(arguments_.repetitions, [&] {
      for (int layer = 0; layer < shape_.layers && status.ok(); ++layer)
        status = cache_->attend(layer, all);
    });
    VKV_TRY(status);
    uint64_t bits = 0;
    for (const SequenceId id : sequences_) {
      VKV_TRY_ASSIGN(stats, cache_->sequence_stats(id));
      for (const RoleStats& role : stats.role) bits += role.stored_bits;
    }
    return Measured{bits / 8 / static_cast<uint64_t>(shape_.layers), seconds / shape_.layers};
  }

  // Once it has measured.
  const std::string& engine() const { return engine_; }

 private:
  Codec open_codec() const { return pair_.k == Codec::kBf16 ? Codec::kBf16 : Codec::kF16; }
  size_t query_values() const {
    return static_cast<size_t>(arguments_.batch) * static_cast<size_t>(arguments_.q_len) *
           static_cast<size_t>(shape_.q_heads * shape_.head_dim);
  }

  std::vector<AttendRequest> requests(const uint16_t* q, uint16_t* out, int q_len,
                                      bool ends_window = false) const {
    std::vector<AttendRequest> all;
    const size_t values = query_values() / sequences_.size();
    for (size_t i = 0; i < sequences_.size(); ++i)
      all.push_back({.sequence = sequences_[i],
                     .q_len = q_len,
                     .q = q + i * values,
                     .out = out + i * values,
                     .ends_window = ends_window});
    return all;
  }

  Status fill();

  const BenchCpuArguments& arguments_;
  KvShape shape_;
  const CodecPair pair_;
  uint64_t budget_ = 0;
  std::string engine_;
  std::unique_ptr<Cache> cache_;
  std::vector<SequenceId> sequences_;
};

// Every layer and window gets the same tokens: what counts is that their bytes lie apart.
Status Run::fill() {
  VKV_TRY_ASSIGN(cache, Cache::open({.shape = shape_,
                                     .element = ElementType::kBf16,
                                     .open_codec = open_codec(),
                                     .precision = {.name = "bench",
                                                   .high = pair_,
                                                   .low = pair_,
                                                   .sink_tokens = 0,
                                                   .sink_sigmas = 0},
                                     .recent_tokens = kRecentTokens,
                                     .dram_bytes_max = budget_,
                                     .threads = arguments_.threads}));
  cache_ = std::move(cache);
  engine_ = cache_->engine();
  for (int i = 0; i < arguments_.batch; ++i) {
    VKV_TRY_ASSIGN(id, cache_->create_sequence());
    sequences_.push_back(id);
  }
  const size_t token_values = static_cast<size_t>(shape_.kv_heads * shape_.head_dim);
  const std::vector<uint16_t> k = random_values(kWindow * token_values, 3);
  const std::vector<uint16_t> v = random_values(kWindow * token_values, 4);
  const std::vector<uint16_t> q = random_values(query_values(), 5);
  std::vector<uint16_t> out(query_values());
  const std::vector<Role> roles(kWindow, Role::kVisual);
  for (int begin = 0; begin < arguments_.tokens; begin += kWindow) {
    const int count = std::min(kWindow, arguments_.tokens - begin);
    for (int layer = 0; layer < shape_.layers; ++layer) {
      for (const SequenceId id : sequences_)
        VKV_TRY(
            cache_->append(layer, {.sequence = id,
                                   .token_count = count,
                                   .k = k.data(),
                                   .v = v.data(),
                                   .roles = std::span(roles).first(static_cast<size_t>(count))}));
      VKV_TRY(cache_->attend(layer, requests(q.data(), out.data(), 1, /*ends_window=*/true)));
    }
  }
  return {};
}

std::string header(const BenchCpuArguments& a, int threads, double speed) {
  return fmt::format(
      "shape    {} query and {} KV heads x {} channels, {} x {} tokens, {} queries each\n"
      "read     {:.1f} GB/s ({} threads that only read {})\n",
      a.q_heads, a.kv_heads, a.head_dim, a.batch, a.tokens, a.q_len, speed / 1e9, threads,
      byte_size_text(kReadBytes));
}

}  // namespace

Status bench_cpu(const BenchCpuArguments& arguments) {
  const KvShape shape = {.layers = 1,
                         .q_heads = arguments.q_heads,
                         .kv_heads = arguments.kv_heads,
                         .head_dim = arguments.head_dim};
  VKV_TRY(validate(shape));
  if (arguments.q_len > kRecentTokens)
    return {Code::kInvalidArgument, fmt::format("--q-len is {}; at most {} queries are measured",
                                                arguments.q_len, kRecentTokens)};
  VKV_TRY_ASSIGN(pairs, codec_pairs_of(arguments.codecs));
  const int threads = worker_threads(arguments.threads);
  const double speed = read_speed(threads, arguments.repetitions);

  nlohmann::json json = {
      {"threads", threads}, {"read_gb_s", speed / 1e9}, {"rows", nlohmann::json::array()}};
  if (!arguments.json) fmt::print("{}", header(arguments, threads, speed));
  for (size_t i = 0; i < pairs.size(); ++i) {
    Run run(arguments, shape, pairs[i]);
    VKV_TRY_ASSIGN(measured, run.measure());
    const double gb_s = static_cast<double>(measured.bytes) / measured.seconds / 1e9;
    const double token_heads =
        static_cast<double>(arguments.tokens) * arguments.batch * arguments.kv_heads;
    const double ns = measured.seconds * 1e9 * threads / token_heads;
    json["engine"] = run.engine();
    json["rows"].push_back({{"codecs", arguments.codecs[i]},
                            {"bytes", measured.bytes},
                            {"us", measured.seconds * 1e6},
                            {"gb_s", gb_s},
                            {"of_read", gb_s * 1e9 / speed},
                            {"ns_token_head", ns}});
    if (arguments.json) continue;
    if (i == 0)
      fmt::print("engine   {}\n\n{:<12} {:>10} {:>10} {:>9} {:>8} {:>15}\n", run.engine(), "K / V",
                 "MB", "us", "GB/s", "of read", "ns/token-head");
    fmt::print("{:<12} {:>10.1f} {:>10.1f} {:>9.1f} {:>6.1f} % {:>15.2f}\n", arguments.codecs[i],
               static_cast<double>(measured.bytes) / 1e6, measured.seconds * 1e6, gb_s,
               100 * gb_s * 1e9 / speed, ns);
    std::fflush(stdout);
  }
  if (arguments.json) fmt::print("{}\n", json.dump(1));
  return {};
}

}  // namespace vkv
