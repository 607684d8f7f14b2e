// bench_cpu.cpp: attends to random records, layer after layer, and merges.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_cpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "cpu/cpu_backend.h"
#include "cpu/cpu_features.h"
#include "cpu/crew.h"
#include "cpu/measure_tile.h"
#include "cpu/parallel.h"
#include "cpu/thread_plan.h"
#include "tools/vkv/bench_parts.h"
#include "tools/vkv/byte_size.h"
#include "tools/vkv/cpu_records.h"
#include "tools/vkv/dram_reader.h"
#include "tools/vkv/policy_file.h"
#include "tools/vkv/torch_attention.h"

namespace vkv {
namespace {

constexpr uint64_t kRecordBytes = uint64_t{768} << 20;  // several times any L3

// The crew that a backend of this plan has, or none.
std::unique_ptr<Crew> crew_of(const Teams& teams, int awake_us) {
  if (awake_us == 0 && !teams.are_bound()) return nullptr;
  return std::make_unique<Crew>(teams, std::chrono::microseconds(awake_us));
}

// Seconds until all of so many threads came, saw each other, and were back, when they had nothing
// to do for a while. Gives up on threads that do not come.
double fan_seconds(const BenchCpuArguments& arguments, const ThreadPlan& plan,
                   std::chrono::microseconds idle) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kPatience(5);
  const Teams teams(plan);
  const std::unique_ptr<Crew> crew = crew_of(teams, arguments.awake_us);
  const int threads = teams.thread_count();
  std::vector<double> seconds;
  for (int i = 0; i < 8 * arguments.repetitions; ++i) {
    const auto idle_end = Clock::now() + idle;
    while (Clock::now() < idle_end) {
    }
    const auto begin = Clock::now();
    std::atomic<int> come = 0;
    teams.arena(0).execute([&] {
      const Crew::Scope scope(crew.get());
      parallel_tasks(static_cast<size_t>(threads), 1e9, [&](size_t) {
        ++come;
        while (come < threads && Clock::now() < begin + kPatience) {
        }
      });
    });
    seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  return seconds[seconds.size() / 2];
}

// One layer's items, with places for what they give, and the merge of each sequence.
class Step {
 public:
  Step(const CpuRecords& records, int layer, const KvShape& shape, int q_len, int batch,
       const std::vector<float>& q, std::vector<float>& partials)
      : items_(records.items(layer)) {
    const size_t rows = static_cast<size_t>(q_len) * static_cast<size_t>(shape.q_heads);
    const size_t head_dim = static_cast<size_t>(shape.head_dim);
    const size_t partial = rows * (head_dim + 1);
    const size_t count = items_.size() / static_cast<size_t>(batch);  // of a sequence
    partials.resize(std::max(partials.size(), partial * items_.size()));
    views_.reserve(items_.size());
    for (size_t i = 0; i < items_.size(); ++i) {
      items_[i].q_len = q_len;
      items_[i].q = q.data() + i / count * rows * head_dim;
      items_[i].out = partials.data() + i * partial;
      items_[i].lse = items_[i].out + rows * head_dim;
      views_.push_back({items_[i].out, items_[i].lse});
    }
    for (size_t i = 0; i < items_.size(); i += count)
      merges_.push_back({.head_dim = shape.head_dim,
                         .row_count = rows,
                         .partials = std::span<const PartialView>(views_).subspan(i, count),
                         .out = items_[i].out,
                         .lse = items_[i].lse});
  }

  Status run(Backend& backend) const {
    VKV_TRY(backend.attend(items_));
    return backend.merge(merges_);
  }

 private:
  std::vector<AttendItem> items_;
  std::vector<PartialView> views_;
  std::vector<MergeItem> merges_;
};

// Seconds of one layer.
Result<double> measure(const BenchCpuArguments& arguments, const KvShape& shape,
                       const CpuRecords& records, Backend& backend) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> q(static_cast<size_t>(arguments.batch) * arguments.q_len * shape.q_heads *
                       shape.head_dim);
  for (float& value : q) value = normal(random);
  std::vector<float> partials;
  { const Step sized(records, 0, shape, arguments.q_len, arguments.batch, q, partials); }
  std::vector<Step> steps;
  for (int layer = 0; layer < records.layer_count(); ++layer)
    steps.emplace_back(records, layer, shape, arguments.q_len, arguments.batch, q, partials);
  Status status;
  const double seconds = median_seconds(arguments.repetitions, [&] {
    for (size_t layer = 0; layer < steps.size() && status.ok(); ++layer)
      status = steps[layer].run(backend);
  });
  VKV_TRY(status);
  return seconds / records.layer_count();
}

// What all rows are compared with.
struct Limits {
  int threads = 0;
  double read_speed = 0;                    // bytes a second
  std::vector<std::pair<int, double>> fan;  // microseconds of idleness before, seconds
  std::optional<TorchAttention> torch;
  std::optional<TorchAttentionRow> fastest;
};

Result<Limits> measure_limits(const BenchCpuArguments& arguments, const KvShape& shape,
                              const ThreadPlan& plan) {
  Limits limits = {.threads = plan.thread_count()};
  limits.read_speed = DramReader(plan).speed(arguments.repetitions);
  for (const int idle_us : {0, 100, 1000})
    limits.fan.emplace_back(idle_us,
                            fan_seconds(arguments, plan, std::chrono::microseconds(idle_us)));
  if (arguments.torch.empty()) return limits;
  VKV_TRY_ASSIGN(torch, measure_torch_attention({.python = arguments.torch,
                                                 .shape = shape,
                                                 .token_count = arguments.tokens,
                                                 .batch = arguments.batch,
                                                 .q_len = arguments.q_len,
                                                 .cpu_threads = limits.threads}));
  limits.fastest = fastest(torch);
  limits.torch = std::move(torch);
  return limits;
}

void print_head(const BenchCpuArguments& a, const Limits& limits) {
  fmt::print(
      "shape    {} query and {} KV heads x {} channels, {} x {} tokens, {} queries each\n"
      "read     {:.1f} GB/s ({} threads that only read {})\n",
      a.q_heads, a.kv_heads, a.head_dim, a.batch, a.tokens, a.q_len, limits.read_speed / 1e9,
      limits.threads, byte_size_text(DramReader::kBytes));
  fmt::print("wake     {} threads there and back:", limits.threads);
  for (const auto& [idle_us, seconds] : limits.fan)
    fmt::print(" {:.1f} us after {} us{}", seconds * 1e6, idle_us,
               idle_us == limits.fan.back().first ? "\n" : ",");
  if (!limits.torch) return;
  fmt::print("torch    {}\n", limits.torch->version);
  for (const TorchAttentionRow& row : limits.torch->rows)
    fmt::print("torch    {:<40} {}\n", row.way,
               row.seconds > 0 ? fmt::format("{:>9.1f} us", row.seconds * 1e6)
                               : row.refused.substr(0, 60));
}

void print_row(const nlohmann::json& row) {
  fmt::print("{:<12} {:>10.1f} {:>10.1f} {:>9.1f} {:>6.1f} % {:>15.2f}",
             row["codecs"].get<std::string>(), row["bytes"].get<double>() / 1e6,
             row["us"].get<double>(), row["gb_s"].get<double>(), 100 * row["of_read"].get<double>(),
             row["ns_token_head"].get<double>());
  if (row.contains("torch")) fmt::print(" {:>7.2f}", row["torch"].get<double>());
  fmt::print("\n");
  std::fflush(stdout);
}

nlohmann::json row_of(const BenchCpuArguments& a, const std::string& codecs,
                      std::string_view engine, const CpuRecords& records, double seconds,
                      const Limits& limits) {
  const double speed = static_cast<double>(records.layer_bytes()) / seconds;
  const double token_heads = static_cast<double>(a.tokens) * a.batch * a.kv_heads;
  nlohmann::json row = {{"engine", engine},
                        {"codecs", codecs},
                        {"bytes", records.layer_bytes()},
                        {"us", seconds * 1e6},
                        {"gb_s", speed / 1e9},
                        {"of_read", speed / limits.read_speed},
                        {"ns_token_head", seconds * 1e9 * limits.threads / token_heads}};
  if (limits.fastest) row["torch"] = limits.fastest->seconds / seconds;
  return row;
}

// Parts for K and V of the first codec of each pair, one thread.
Status add_parts(const BenchCpuArguments& a, std::string_view engine,
                 std::span<const CodecPair> pairs, nlohmann::json& json) {
  std::optional<TileEngine> tiles;
  for (const TileEngine one : kTileEngines)
    if (engine.starts_with(fmt::format("cpu-{} ", name(one)))) tiles = one;
  if (!tiles) return {};  // the reference has no tiles
  if (!a.json)
    fmt::print("\nparts    {}, ns/token-head of one thread on a tile in cache\n{:<8}", engine, "K");
  const char* const names[] = {"unpack",  "products", "queries", "scores", "softmax",
                               "outputs", "merge",    "sum",     "whole"};
  if (!a.json)
    for (const char* one : names) fmt::print(" {:>9}", one);
  if (!a.json) fmt::print("\n");
  for (size_t i = 0; i < pairs.size(); ++i) {
    VKV_TRY_ASSIGN(parts, measure_tile_parts(*tiles, pairs[i].k, a.q_len * a.q_heads / a.kv_heads,
                                             a.head_dim));
    const double values[] = {parts.unpack, parts.products, parts.queries,
                             parts.scores, parts.softmax,  parts.outputs,
                             parts.merge,  parts.sum(),    parts.whole};
    nlohmann::json row = {{"engine", engine}, {"codecs", a.codecs[i]}};
    for (size_t part = 0; part < std::size(values); ++part) row[names[part]] = values[part];
    json["parts"].push_back(row);
    if (a.json) continue;
    fmt::print("{:<8}", a.codecs[i]);
    for (const double value : values) fmt::print(" {:>9.2f}", value);
    fmt::print("\n");
  }
  return {};
}

}  // namespace

Status bench_cpu(const BenchCpuArguments& arguments) {
  const KvShape shape = {.layers = 1,
                         .q_heads = arguments.q_heads,
                         .kv_heads = arguments.kv_heads,
                         .head_dim = arguments.head_dim};
  VKV_TRY(validate(shape));
  if (!cpu_has_avx2()) return {Code::kUnsupported, "vkv bench cpu needs a CPU with AVX2"};
  VKV_TRY_ASSIGN(pairs, codec_pairs_of(arguments.codecs));
  std::vector<std::string> engines = arguments.engines;
  if (engines.empty()) engines.emplace_back();
  const ThreadPlan plan = plan_threads_here({.threads = arguments.threads});
  std::vector<std::unique_ptr<Backend>> backends;
  for (const std::string& engine : engines) {
    VKV_TRY_ASSIGN(backend, make_cpu_backend(
                                {.plan = plan, .awake_us = arguments.awake_us, .engine = engine}));
    backends.push_back(std::move(backend));
  }
  VKV_TRY_ASSIGN(limits, measure_limits(arguments, shape, plan));

  nlohmann::json json = {{"threads", limits.threads},
                         {"read_gb_s", limits.read_speed / 1e9},
                         {"rows", nlohmann::json::array()}};
  if (!arguments.json) print_head(arguments, limits);
  for (const std::unique_ptr<Backend>& backend : backends) {
    if (!arguments.json)
      fmt::print("engine   {}\n\n{:<12} {:>10} {:>10} {:>9} {:>8} {:>15}{}\n", backend->name(),
                 "K / V", "MB", "us", "GB/s", "of read", "ns/token-head",
                 limits.fastest ? "   torch" : "");
    for (size_t i = 0; i < pairs.size(); ++i) {
      const CpuRecords records({.shape = shape,
                                .codecs = pairs[i],
                                .token_count = arguments.tokens,
                                .batch = arguments.batch,
                                .byte_count = kRecordBytes,
                                .threads = arguments.threads,
                                .nodes = plan.memory_nodes});
      VKV_TRY_ASSIGN(seconds, measure(arguments, shape, records, *backend));
      json["rows"].push_back(
          row_of(arguments, arguments.codecs[i], backend->name(), records, seconds, limits));
      if (!arguments.json) print_row(json["rows"].back());
    }
  }
  if (arguments.parts)
    for (const std::unique_ptr<Backend>& backend : backends)
      VKV_TRY(add_parts(arguments, backend->name(), pairs, json));
  if (arguments.json) fmt::print("{}\n", json.dump(1));
  return {};
}

}  // namespace vkv
