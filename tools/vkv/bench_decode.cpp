// bench_decode.cpp: prints what tools/mllm/cuda/measure_decode.h measured.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_decode.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kernels/gpu_devices.h"
#include "tools/mllm/cuda/measure_decode.h"
#include "tools/vkv/model_shapes.h"
#include "tools/vkv/policy_file.h"

namespace vkv {
namespace {

void print(const BenchDecodeArguments& arguments, const std::string& device,
           const DecodeMeasurement& measured) {
  const auto ms = [](double seconds) { return seconds * 1e3; };
  const auto gb = [](uint64_t bytes) { return static_cast<double>(bytes) * 1e-9; };
  const double other = measured.seconds - measured.attention_seconds - measured.products_seconds;
  const auto share = [&](double seconds) { return 100 * seconds / measured.seconds; };
  fmt::print("device    {}\n", device);
  fmt::print("model     {}, random weights of bf16\n", arguments.model);
  fmt::print("cache     {} tokens, {} of them visual, {}: {:.2f} bits a value\n", arguments.tokens,
             arguments.tokens - arguments.text_tokens,
             arguments.policy.empty() ? arguments.preset : arguments.policy,
             measured.bits_per_value);
  fmt::print("read      {:.0f} GB/s (a kernel that only reads device memory)\n\n",
             measured.read_bytes_per_second * 1e-9);
  fmt::print("weights   {:8.3f} GB a step\n", gb(measured.weight_bytes));
  fmt::print("K and V   {:8.3f} GB a step\n", gb(measured.kv_bytes));
  if (measured.dram_bytes > 0) {
    fmt::print("  in DRAM {:8.3f} GB; the link reads {:.1f} GB/s (a kernel that only reads)\n",
               gb(measured.dram_bytes), measured.link_bytes_per_second * 1e-9);
    const auto steps = static_cast<double>(arguments.steps);
    const auto part = [&](const char* who, uint64_t bytes, double rate) {
      if (bytes == 0) return;
      fmt::print("    {:<21} {:8.3f} GB", who, static_cast<double>(bytes) / steps * 1e-9);
      if (rate > 0) fmt::print(" at {:.1f} GB/s", rate * 1e-9);
      fmt::print("\n");
    };
    part("copied ahead", measured.ahead_read_bytes, measured.ahead_read_rate);
    part("by the GPU, attending", measured.link_read_bytes, measured.link_read_rate);
    part("by the CPU", measured.host_read_bytes, measured.host_read_rate);
  }
  fmt::print("bound     {:8.3f} ms  (these bytes at {})\n", ms(measured.bound_seconds()),
             measured.dram_bytes > 0 ? "the speeds of HBM, the link and the CPU" : "that speed");
  fmt::print("step      {:8.3f} ms  {:.3f} of the bound (median of {}; slowest {:.3f} ms)\n",
             ms(measured.seconds), measured.seconds / measured.bound_seconds(), arguments.steps,
             ms(measured.seconds_max));
  fmt::print("  attention {:6.3f} ms  {:.1f} %\n", ms(measured.attention_seconds),
             share(measured.attention_seconds));
  fmt::print("  products  {:6.3f} ms  {:.1f} %, {:.1f} % of read; by cuBLASLt {:.3f} ms\n",
             ms(measured.products_seconds), share(measured.products_seconds),
             100 * static_cast<double>(measured.weight_bytes) / measured.products_seconds /
                 measured.read_bytes_per_second,
             ms(measured.cublas_seconds));
  fmt::print("  rest      {:6.3f} ms  {:.1f} %\n", ms(other), share(other));
  fmt::print("without CUDA graphs {:.3f} ms\n", ms(measured.seconds_plain));
}

}  // namespace

Status bench_decode(const BenchDecodeArguments& arguments) {
  VKV_TRY_ASSIGN(text, named_text_shape(arguments.model));
  if (arguments.text_tokens > arguments.tokens)
    return {Code::kInvalidArgument, fmt::format("--text-tokens is {}, more than --tokens, {}",
                                                arguments.text_tokens, arguments.tokens)};
  VKV_TRY_ASSIGN(policy, arguments.policy.empty() ? precision_preset(arguments.preset)
                                                  : policy_from(arguments.policy));
  CacheOptions cache = {
      .device = Device::kCuda, .precision = policy, .recent_tokens = arguments.recent_tokens};
  VKV_TRY(apply(arguments.hbm, cache));
  VKV_TRY_ASSIGN(devices, list_gpu_devices());
  if (devices.empty()) return {Code::kUnsupported, "there is no GPU"};
  VKV_TRY_ASSIGN(measured, measure_decode({.text = text,
                                           .token_count = arguments.tokens,
                                           .visual_count = arguments.tokens - arguments.text_tokens,
                                           .step_count = arguments.steps,
                                           .cache = cache}));
  if (!arguments.json) {
    print(arguments, devices.front().name, measured);
    return {};
  }
  const nlohmann::json json = {{"device", devices.front().name},
                               {"model", arguments.model},
                               {"tokens", arguments.tokens},
                               {"visual_tokens", arguments.tokens - arguments.text_tokens},
                               {"precision", policy.name},
                               {"bits_per_value", measured.bits_per_value},
                               {"read_gb_s", measured.read_bytes_per_second * 1e-9},
                               {"weight_bytes", measured.weight_bytes},
                               {"kv_bytes", measured.kv_bytes},
                               {"hbm_bytes_used", measured.hbm_bytes},
                               {"dram_kv_bytes", measured.dram_bytes},
                               {"link_gb_s", measured.link_bytes_per_second * 1e-9},
                               {"ahead_read_bytes", measured.ahead_read_bytes},
                               {"ahead_read_gb_s", measured.ahead_read_rate * 1e-9},
                               {"host_read_bytes", measured.host_read_bytes},
                               {"host_read_gb_s", measured.host_read_rate * 1e-9},
                               {"link_read_bytes", measured.link_read_bytes},
                               {"link_read_gb_s", measured.link_read_rate * 1e-9},
                               {"bound_ms", measured.bound_seconds() * 1e3},
                               {"step_ms", measured.seconds * 1e3},
                               {"step_ms_max", measured.seconds_max * 1e3},
                               {"of_bound", measured.seconds / measured.bound_seconds()},
                               {"attention_ms", measured.attention_seconds * 1e3},
                               {"products_ms", measured.products_seconds * 1e3},
                               {"products_cublas_ms", measured.cublas_seconds * 1e3},
                               {"step_without_graphs_ms", measured.seconds_plain * 1e3}};
  fmt::print("{}\n", json.dump(1));
  return {};
}

}  // namespace vkv
