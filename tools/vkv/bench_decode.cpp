// bench_decode.cpp: every combination that is asked for, one after another.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_decode.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "cpu/thread_plan.h"
#include "kernels/gpu_devices.h"
#include "kernels/measure_attend.h"
#include "tools/quality/quality_report.h"
#include "tools/vkv/chrome_trace.h"
#include "tools/vkv/decode_rows.h"
#include "tools/vkv/dram_reader.h"
#include "tools/vkv/model_shapes.h"
#include "tools/vkv/policy_file.h"
#include "tools/vkv/text_file.h"

namespace vkv {
namespace {

using Clock = std::chrono::steady_clock;

Result<ReadSpeeds> measure_speeds() {
  ReadSpeeds speeds;
  VKV_TRY_ASSIGN(hbm, measure_read_speed(Tier::kHbm));
  VKV_TRY_ASSIGN(link, measure_read_speed(Tier::kDram));
  speeds.hbm = hbm;
  speeds.link = link;
  const ThreadPlan plan = plan_threads_here({});
  speeds.threads = plan.thread_count();
  DramReader reader(plan);
  speeds.cpu = reader.speed(7);

  std::atomic<bool> stop = false;
  std::thread beside;
  const auto timing = [&](bool begins) {
    if (!begins) {
      stop = true;
      return beside.join();
    }
    beside = std::thread([&] {
      const auto begin = Clock::now();
      const uint64_t bytes = reader.read_until(stop);
      const std::chrono::duration<double> taken = Clock::now() - begin;
      speeds.cpu_together = static_cast<double>(bytes) / taken.count();
    });
  };
  VKV_TRY_ASSIGN(together, measure_read_speed(Tier::kDram, timing));
  speeds.link_together = together;
  return speeds;
}

// Errors: kInvalidArgument for a path that is none.
Status apply_path(const std::string& path, CacheOptions& options) {
  if (path.empty() || path == "resident") return {};
  options.hbm_block_bytes_max = 0;
  const bool ahead = path == "stream" || path == "split";
  if (!ahead) options.hbm_ahead_bytes = 0;
  options.host_share = path == "cpu" ? 1 : path == "split" ? -1 : 0;
  const std::vector<std::string>& known = decode_paths();
  if (std::ranges::find(known, path) != known.end()) return {};
  return {Code::kInvalidArgument,
          fmt::format("--paths has \"{}\"; there are {}", path, fmt::join(known, ", "))};
}

class Bench {
 public:
  explicit Bench(const BenchDecodeArguments& arguments) : arguments_(arguments) {}

  Status run() {
    VKV_TRY(plan());
    VKV_TRY_ASSIGN(devices, list_gpu_devices());
    if (devices.empty()) return {Code::kUnsupported, "there is no GPU"};
    facts_.device = devices.front().name;
    VKV_TRY_ASSIGN(speeds, measure_speeds());
    facts_.speeds = speeds;
    const bool as_table = rows_.size() > 1 && !arguments_.json;
    if (as_table) print_decode_heading(facts_);
    for (size_t i = 0; i < rows_.size(); ++i) {
      Result<DecodeMeasurement> measured = measure_decode(options_[i]);
      rows_[i].status = measured.status();
      if (measured.ok()) {
        rows_[i].measured = std::move(measured.value());
      } else if (rows_.size() == 1 || measured.status().code() != Code::kOutOfMemory) {
        return measured.status();
      }
      if (as_table) print_decode_line(rows_[i]);
    }
    if (arguments_.json) {
      fmt::print("{}\n", decode_json(facts_, rows_).dump(1));
    } else if (rows_.size() == 1) {
      print_decode(facts_, rows_.front());
    }
    if (!arguments_.trace.empty())
      VKV_TRY(write_text_file(arguments_.trace, chrome_trace(rows_.front().measured.trace).dump()));
    if (!arguments_.report.empty())
      return write_text_file(arguments_.report, decode_report(facts_, rows_, chart_script()));
    return {};
  }

 private:
  // All rows and their options, before anything takes time.
  Status plan() {
    VKV_TRY_ASSIGN(text, named_text_shape(arguments_.model));
    facts_.model = arguments_.model;
    facts_.text_tokens = arguments_.text_tokens;
    facts_.steps = arguments_.steps;
    const std::vector<std::string> paths =
        arguments_.paths.empty() ? std::vector<std::string>{""} : arguments_.paths;
    for (const std::string& precision : arguments_.precisions) {
      VKV_TRY_ASSIGN(policy, policy_from(precision));
      for (const int tokens : arguments_.tokens) {
        if (arguments_.text_tokens > tokens)
          return {Code::kInvalidArgument, fmt::format("--text-tokens is {}, more than --tokens, {}",
                                                      arguments_.text_tokens, tokens)};
        for (const int batch : arguments_.batches)
          for (const std::string& path : paths) {
            CacheOptions cache = {.device = Device::kCuda,
                                  .precision = policy,
                                  .recent_tokens = arguments_.recent_tokens};
            VKV_TRY(apply(arguments_.hbm, cache));
            VKV_TRY(apply_path(path, cache));
            rows_.push_back({.precision = precision,
                             .path = path.empty() ? "as flagged" : path,
                             .tokens = tokens,
                             .batch = batch});
            options_.push_back(
                {.text = text,
                 .batch_count = batch,
                 .token_count = tokens,
                 .visual_count = tokens - arguments_.text_tokens,
                 .step_count = arguments_.steps,
                 .trace_count = arguments_.trace.empty() ? 0 : arguments_.trace_steps,
                 .cache = cache});
          }
      }
    }
    if (!arguments_.trace.empty() && rows_.size() > 1)
      return {Code::kInvalidArgument,
              "--trace is of one combination; these are " + std::to_string(rows_.size())};
    return {};
  }

  const BenchDecodeArguments& arguments_;
  DecodeFacts facts_;
  std::vector<DecodeRow> rows_;
  std::vector<DecodeMeasurementOptions> options_;
};

}  // namespace

const std::vector<std::string>& decode_paths() {
  static const std::vector<std::string> paths = {"resident", "zero-copy", "stream", "cpu", "split"};
  return paths;
}

Status bench_decode(const BenchDecodeArguments& arguments) { return Bench(arguments).run(); }

}  // namespace vkv
