// bench_encode_gpu.cpp: prints what kernels/encode_bench.h measured.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kernels/encode_bench.h"
#include "tools/vkv/bench_encode.h"

namespace vkv {

Status bench_encode_gpu(const BenchEncodeArguments& arguments) {
  VKV_TRY_ASSIGN(bench, bench_gpu_encode({.blocks = arguments.blocks,
                                          .kv_heads = arguments.kv_heads,
                                          .head_dim = arguments.head_dim,
                                          .repetitions = arguments.repetitions}));
  if (arguments.json) {
    nlohmann::json json = {{"engine", bench.device},
                           {"read_gb_s", bench.read_gb_s},
                           {"rows", nlohmann::json::array()}};
    for (const GpuEncodeBenchRow& row : bench.rows)
      json["rows"].push_back({{"codecs", row.what},
                              {"moved_mb", row.moved_mb},
                              {"us", row.us},
                              {"host_us", row.host_us},
                              {"gb_s", row.gb_s},
                              {"of_read", row.of_read}});
    fmt::print("{}\n", json.dump(1));
    return {};
  }
  fmt::print("engine   {}\n", bench.device);
  fmt::print("input    {} blocks of 128 tokens, {} KV heads x {} channels\n", arguments.blocks,
             arguments.kv_heads, arguments.head_dim);
  fmt::print("read     {:.0f} GB/s (a kernel that only reads the input)\n\n", bench.read_gb_s);
  fmt::print("{:<26} {:>8} {:>8} {:>8} {:>8} {:>8}\n", "K / V", "MB", "us", "GB/s", "of read",
             "host us");
  for (const GpuEncodeBenchRow& row : bench.rows)
    fmt::print("{:<26} {:>8.1f} {:>8.1f} {:>8.1f} {:>6.1f} % {:>8.1f}\n", row.what, row.moved_mb,
               row.us, row.gb_s, 100 * row.of_read, row.host_us);
  return {};
}

}  // namespace vkv
