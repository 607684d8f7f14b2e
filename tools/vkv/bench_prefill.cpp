// bench_prefill.cpp: prints what tools/mllm/cuda/measure_prefill.h measured.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_prefill.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/gpu_devices.h"
#include "tools/mllm/cuda/measure_prefill.h"
#include "tools/vkv/chrome_trace.h"
#include "tools/vkv/model_shapes.h"
#include "tools/vkv/policy_file.h"
#include "tools/vkv/text_file.h"

namespace vkv {

Status bench_prefill(const BenchPrefillArguments& arguments) {
  VKV_TRY_ASSIGN(text, named_text_shape(arguments.model));
  if (arguments.text_tokens > arguments.tokens)
    return {Code::kInvalidArgument, fmt::format("--text-tokens is {}, more than --tokens, {}",
                                                arguments.text_tokens, arguments.tokens)};
  std::vector<CacheOptions> caches;
  for (const std::string& precision : arguments.precisions) {
    VKV_TRY_ASSIGN(policy, policy_from(precision));
    CacheOptions cache = {.device = Device::kCuda, .precision = policy};
    VKV_TRY(apply(arguments.hbm, cache));
    caches.push_back(cache);
  }
  VKV_TRY_ASSIGN(devices, list_gpu_devices());
  if (devices.empty()) return {Code::kUnsupported, "there is no GPU"};

  nlohmann::json rows = nlohmann::json::array();
  if (!arguments.json) {
    fmt::print("device    {}\nmodel     {}, random weights of bf16\n", devices.front().name,
               arguments.model);
    fmt::print("prompt    {} tokens, {} of them visual; a question of {}\n\n", arguments.tokens,
               arguments.tokens - arguments.text_tokens, arguments.question_tokens);
    fmt::print("{:<12} {:<10} {:>8} {:>8} {:>10} {:>9} {:>8} {:>11}\n", "precision", "blocks",
               "KV GB", "in DRAM", "first ms", "prompt ms", "of HBM", "question ms");
  }
  std::vector<ActivitySpan> trace;
  for (size_t i = 0; i < caches.size(); ++i) {
    double in_hbm = 0;
    for (const bool offload : {false, true}) {
      CacheOptions cache = caches[i];
      if (offload) cache.hbm_block_bytes_max = 0;
      VKV_TRY_ASSIGN(m, measure_prefill({.text = text,
                                         .token_count = arguments.tokens,
                                         .visual_count = arguments.tokens - arguments.text_tokens,
                                         .question_count = arguments.question_tokens,
                                         .round_count = arguments.rounds,
                                         .traces = !arguments.trace.empty(),
                                         .cache = cache}));
      if (!arguments.trace.empty()) trace = std::move(m.trace);
      if (!offload) in_hbm = m.prompt_seconds;
      const char* const where = offload ? "DRAM" : "HBM";
      if (!arguments.json) {
        fmt::print("{:<12} {:<10} {:>8.2f} {:>8.2f} {:>10.1f} {:>9.1f} {:>8.3f} {:>11.2f}\n",
                   arguments.precisions[i], where, static_cast<double>(m.kv_bytes) * 1e-9,
                   static_cast<double>(m.dram_bytes) * 1e-9, m.first_seconds * 1e3,
                   m.prompt_seconds * 1e3, m.prompt_seconds / in_hbm, m.question_seconds * 1e3);
        std::fflush(stdout);
      }
      rows.push_back({{"precision", arguments.precisions[i]},
                      {"blocks_in", where},
                      {"kv_bytes", m.kv_bytes},
                      {"dram_kv_bytes", m.dram_bytes},
                      {"first_prompt_ms", m.first_seconds * 1e3},
                      {"prompt_ms", m.prompt_seconds * 1e3},
                      {"of_hbm", m.prompt_seconds / in_hbm},
                      {"question_ms", m.question_seconds * 1e3}});
    }
  }
  if (arguments.json) {
    const nlohmann::json json = {{"device", devices.front().name},
                                 {"model", arguments.model},
                                 {"tokens", arguments.tokens},
                                 {"text_tokens", arguments.text_tokens},
                                 {"question_tokens", arguments.question_tokens},
                                 {"rows", rows}};
    fmt::print("{}\n", json.dump(1));
  }
  if (arguments.trace.empty()) return {};
  return write_text_file(arguments.trace, chrome_trace(trace).dump());
}

}  // namespace vkv
