// bench_attend.cpp: prints what kernels/measure_attend.h measured, and PyTorch beside it.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_attend.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/gpu_devices.h"
#include "kernels/measure_attend.h"
#include "tools/vkv/policy_file.h"
#include "tools/vkv/torch_attention.h"

namespace vkv {
namespace {

// What all rows are compared with.
struct Limits {
  std::string device;
  double read_speed = 0;  // bytes a second
  std::optional<TorchAttention> torch;
  std::optional<TorchAttentionRow> fastest;  // of PyTorch's ways
};

// `plain_operations` are those of ways that let every query see all.
void print_torch(const TorchAttention& torch, double operations, double plain_operations) {
  for (const TorchAttentionRow& row : torch.rows) {
    const double own = row.way.starts_with("plain") ? plain_operations : operations;
    fmt::print("torch    {:<40} {}\n", row.way,
               row.seconds > 0 ? fmt::format("{:>9.1f} us {:>7.1f} TFLOP/s", row.seconds * 1e6,
                                             own / row.seconds / 1e12)
                               : row.refused.substr(0, 60));
  }
}

void print_head(const BenchAttendArguments& a, const Limits& limits, bool is_chunk) {
  fmt::print("device   {}\n", limits.device);
  fmt::print("shape    {} query and {} KV heads x {} channels, {} x {} tokens, {} queries each{}\n",
             a.q_heads, a.kv_heads, a.head_dim, a.batch, a.tokens, a.q_len,
             is_chunk ? " that see themselves too" : "");
  fmt::print("read     {:.0f} GB/s (a kernel that only reads {})\n", limits.read_speed / 1e9,
             a.tier == "hbm" ? "device memory" : "mapped pinned memory");
  if (limits.torch) fmt::print("torch    {}\n", limits.torch->version);
}

nlohmann::json json_of(const std::string& codecs, const AttendMeasurement& measured,
                       const Limits& limits, bool is_chunk) {
  const double speed = static_cast<double>(measured.record_bytes) / measured.seconds;
  nlohmann::json row = {{"codecs", codecs},
                        {"bytes", measured.record_bytes},
                        {"us", measured.seconds * 1e6},
                        {"gb_s", speed / 1e9},
                        {"of_read", speed / limits.read_speed}};
  if (is_chunk) row["tflop_s"] = measured.operations / measured.seconds / 1e12;
  if (limits.fastest) row["torch"] = limits.fastest->seconds / measured.seconds;
  return row;
}

void print_row(const nlohmann::json& row) {
  fmt::print("{:<12} {:>10.1f} {:>9.1f} {:>9.1f} {:>6.1f} %", row["codecs"].get<std::string>(),
             row["bytes"].get<double>() / 1e6, row["us"].get<double>(), row["gb_s"].get<double>(),
             100 * row["of_read"].get<double>());
  if (row.contains("tflop_s")) fmt::print(" {:>8.1f}", row["tflop_s"].get<double>());
  if (row.contains("torch")) fmt::print(" {:>7.2f}", row["torch"].get<double>());
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace

Status bench_attend(const BenchAttendArguments& arguments) {
  AttendMeasurementOptions options = {.shape = {.layers = 1,
                                                .q_heads = arguments.q_heads,
                                                .kv_heads = arguments.kv_heads,
                                                .head_dim = arguments.head_dim},
                                      .token_count = arguments.tokens,
                                      .batch = arguments.batch,
                                      .q_len = arguments.q_len,
                                      .tier = arguments.tier == "dram" ? Tier::kDram : Tier::kHbm};
  VKV_TRY(validate(options.shape));
  VKV_TRY_ASSIGN(pairs, codec_pairs_of(arguments.codecs));
  VKV_TRY_ASSIGN(devices, list_gpu_devices());
  if (devices.empty()) return {Code::kUnsupported, "there is no GPU"};
  VKV_TRY_ASSIGN(speed, measure_read_speed(options.tier));
  Limits limits = {.device = devices.front().name, .read_speed = speed};
  const bool is_chunk = is_prefill(options);
  if (!arguments.torch.empty()) {
    VKV_TRY_ASSIGN(torch, measure_torch_attention({.python = arguments.torch,
                                                   .shape = options.shape,
                                                   .token_count = options.token_count,
                                                   .batch = options.batch,
                                                   .q_len = options.q_len}));
    limits.fastest = fastest(torch);
    limits.torch = std::move(torch);
  }

  nlohmann::json json = {{"device", limits.device},
                         {"tier", arguments.tier},
                         {"read_gb_s", speed / 1e9},
                         {"rows", nlohmann::json::array()}};
  if (!arguments.json) print_head(arguments, limits, is_chunk);
  for (size_t i = 0; i < pairs.size(); ++i) {
    options.codecs = pairs[i];
    VKV_TRY_ASSIGN(measured, measure_attend(options));
    json["rows"].push_back(json_of(arguments.codecs[i], measured, limits, is_chunk));
    if (arguments.json) continue;
    if (i == 0) {
      if (is_chunk) fmt::print("engine   {}\n", measured.engine);
      const double all = 4.0 * options.batch * options.q_len * options.shape.q_heads *
                         options.shape.head_dim * (options.token_count + options.q_len);
      if (limits.torch) print_torch(*limits.torch, measured.operations, all);
      fmt::print("\n{:<12} {:>10} {:>9} {:>9} {:>8}{}{}\n", "K / V", "MB", "us", "GB/s", "of read",
                 is_chunk ? "  TFLOP/s" : "", limits.fastest ? "   torch" : "");
    }
    print_row(json["rows"].back());
  }
  if (limits.torch) {
    json["torch"] = {{"version", limits.torch->version}, {"ways", nlohmann::json::array()}};
    for (const TorchAttentionRow& row : limits.torch->rows)
      json["torch"]["ways"].push_back({{"way", row.way}, {"us", row.seconds * 1e6}});
  }
  if (arguments.json) fmt::print("{}\n", json.dump(1));
  return {};
}

}  // namespace vkv
