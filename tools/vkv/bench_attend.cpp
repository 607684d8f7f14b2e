// bench_attend.cpp: prints what kernels/measure_attend.h measured.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_attend.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/gpu_devices.h"
#include "kernels/measure_attend.h"
#include "tools/vkv/policy_file.h"

namespace vkv {

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
  std::vector<CodecPair> pairs;
  for (const std::string& name : arguments.codecs) {
    VKV_TRY_ASSIGN(pair, codec_pair_of(name));
    pairs.push_back(pair);
  }
  VKV_TRY_ASSIGN(devices, list_gpu_devices());
  if (devices.empty()) return {Code::kUnsupported, "there is no GPU"};
  const std::string& device = devices.front().name;
  VKV_TRY_ASSIGN(speed, measure_read_speed(options.tier));

  nlohmann::json json = {{"device", device},
                         {"tier", arguments.tier},
                         {"read_gb_s", speed / 1e9},
                         {"rows", nlohmann::json::array()}};
  if (!arguments.json) {
    fmt::print("device   {}\n", device);
    fmt::print("shape    {} query and {} KV heads x {} channels, {} x {} tokens, {} queries each\n",
               arguments.q_heads, arguments.kv_heads, arguments.head_dim, arguments.batch,
               arguments.tokens, arguments.q_len);
    fmt::print("read     {:.0f} GB/s (a kernel that only reads {})\n\n", speed / 1e9,
               options.tier == Tier::kHbm ? "device memory" : "mapped pinned memory");
    fmt::print("{:<12} {:>10} {:>9} {:>9} {:>8}\n", "K / V", "MB", "us", "GB/s", "of read");
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    options.codecs = pairs[i];
    VKV_TRY_ASSIGN(measured, measure_attend(options));
    const double gb_s = static_cast<double>(measured.record_bytes) / measured.seconds / 1e9;
    json["rows"].push_back({{"codecs", arguments.codecs[i]},
                            {"bytes", measured.record_bytes},
                            {"us", measured.seconds * 1e6},
                            {"gb_s", gb_s},
                            {"of_read", gb_s * 1e9 / speed}});
    if (arguments.json) continue;
    fmt::print("{:<12} {:>10.1f} {:>9.1f} {:>9.1f} {:>6.1f} %\n", arguments.codecs[i],
               static_cast<double>(measured.record_bytes) / 1e6, measured.seconds * 1e6, gb_s,
               100 * gb_s * 1e9 / speed);
    std::fflush(stdout);
  }
  if (arguments.json) fmt::print("{}\n", json.dump(1));
  return {};
}

}  // namespace vkv
