// bench_peers.cpp: the peers' script, then our own steps, prompts and batches.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_peers.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/gpu_devices.h"
#include "kernels/measure_attend.h"
#include "tools/mllm/cuda/measure_decode.h"
#include "tools/mllm/cuda/measure_prefill.h"
#include "tools/quality/quality_report.h"
#include "tools/vkv/byte_size.h"
#include "tools/vkv/model_shapes.h"
#include "tools/vkv/peer_rows.h"
#include "tools/vkv/policy_file.h"
#include "tools/vkv/python_script.h"
#include "tools/vkv/text_file.h"

namespace vkv {
namespace {

// Of an HBM budget, besides blocks: work memory of the kernels, open tokens, a window.
constexpr uint64_t kBesideBlocks = uint64_t{1} << 30;
constexpr int kQuestionTokens = 32;
constexpr int kPromptRounds = 2;

// VmHWM of the process: what it had at most since forget_host_peak().
uint64_t host_peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (uint64_t kib = 0; word == "VmHWM:" && status >> kib) return kib * 1024;
  return 0;
}

void forget_host_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

struct Way {
  std::string name;
  std::string precision;
  CacheOptions cache;
};

class Bench {
 public:
  explicit Bench(const BenchPeersArguments& arguments) : arguments_(arguments) {}

  Status run() {
    VKV_TRY_ASSIGN(text, named_text_shape(arguments_.model));
    text_ = text;
    VKV_TRY(plan());
    VKV_TRY_ASSIGN(devices, list_gpu_devices());
    if (devices.empty()) return {Code::kUnsupported, "there is no GPU"};
    facts_.device = devices.front().name;
    facts_.model = arguments_.model;
    facts_.text_tokens = arguments_.text_tokens;
    facts_.budget = arguments_.batch_budget;
    run_peers();
    VKV_TRY_ASSIGN(hbm, measure_read_speed(Tier::kHbm));
    VKV_TRY_ASSIGN(link, measure_read_speed(Tier::kDram));
    facts_.hbm_read_rate = hbm;
    facts_.link_read_rate = link;
    if (!arguments_.json) {
      print_peers_heading(facts_);
      for (const PeerRow& row : rows_) print_peer_line(row);
    }
    for (const int tokens : arguments_.tokens)
      for (const Way& way : ways_) VKV_TRY(add(measure(way, tokens)));
    VKV_TRY(grow_batches());
    if (arguments_.json) fmt::print("{}\n", peers_json(facts_, rows_).dump(1));
    if (arguments_.report.empty()) return {};
    return write_text_file(arguments_.report, peers_report(facts_, rows_, chart_script()));
  }

 private:
  // All ways, before anything takes time.
  Status plan() {
    if (arguments_.prompt_tokens != 0 &&
        std::ranges::find(arguments_.tokens, arguments_.prompt_tokens) == arguments_.tokens.end())
      return {Code::kInvalidArgument,
              fmt::format("--prompt-tokens is {}, none of --tokens", arguments_.prompt_tokens)};
    VKV_TRY_ASSIGN(exact, options_of("exact"));
    ways_.push_back({"exact, in HBM", "exact", exact});
    exact.hbm_block_bytes_max = 0;
    exact.hbm_bytes_max = kBesideBlocks;
    ways_.push_back({"exact, streamed", "exact", exact});
    for (const std::string& precision : arguments_.precisions) {
      VKV_TRY_ASSIGN(cache, options_of(precision));
      cache.host_share = -1;
      for (const std::string& blocks : arguments_.hbm_blocks) {
        VKV_TRY_ASSIGN(bytes, parse_byte_size(blocks));
        cache.hbm_block_bytes_max = bytes;
        cache.hbm_bytes_max = bytes + kBesideBlocks;
        ways_.push_back({fmt::format("{}, {} in HBM", precision, blocks), precision, cache});
      }
    }
    VKV_TRY_ASSIGN(budget, parse_byte_size(arguments_.batch_budget));
    batch_budget_ = budget;
    return {};
  }

  static Result<CacheOptions> options_of(const std::string& precision) {
    VKV_TRY_ASSIGN(policy, policy_from(precision));
    return CacheOptions{.device = Device::kCuda, .precision = policy};
  }

  void run_peers() {
    if (arguments_.python == "none") {
      facts_.versions = "not asked for";
      return;
    }
    const nlohmann::json asked = {{"shape",
                                   {{"hidden", text_.hidden},
                                    {"intermediate", text_.intermediate},
                                    {"layers", text_.layers},
                                    {"q_heads", text_.q_heads},
                                    {"kv_heads", text_.kv_heads},
                                    {"head_dim", text_.head_dim},
                                    {"vocabulary", text_.vocabulary}}},
                                  {"tokens", arguments_.tokens},
                                  {"prompt_tokens", arguments_.prompt_tokens},
                                  {"batch_tokens", arguments_.tokens.front()},
                                  {"batches", peer_batches()},
                                  {"steps", arguments_.steps}};
    const std::vector<std::string> words = {asked.dump()};
    const Result<std::string> printed = run_python(arguments_.python, peers_script(), words);
    Result<std::vector<PeerRow>> rows = printed.ok()
                                            ? parse_peers(printed.value(), facts_.versions)
                                            : Result<std::vector<PeerRow>>(printed.status());
    if (rows.ok())
      rows_ = std::move(rows.value());
    else
      facts_.versions = "none: " + rows.status().message();
  }

  // Until the GPU is full: transformers has no budget.
  std::vector<int> peer_batches() const {
    if (batch_budget_ == 0) return {};
    return {2, 4, 8, 16, 32};
  }

  PeerRow measure(const Way& way, int tokens) {
    spdlog::info("vkv, {}, {} tokens", way.name, tokens);
    forget_host_peak();
    PeerRow row = measure_steps(way, tokens, 1);
    const bool in_hbm = way.cache.hbm_block_bytes_max == UINT64_MAX;
    const bool is_prompt = tokens == arguments_.prompt_tokens && row.refused.empty();
    if (!is_prompt || (!in_hbm && way.cache.hbm_block_bytes_max != 0)) return row;
    const Result<PrefillMeasurement> prefill =
        measure_prefill({.text = text_,
                         .token_count = tokens,
                         .visual_count = tokens - arguments_.text_tokens,
                         .question_count = kQuestionTokens,
                         .round_count = kPromptRounds,
                         .cache = way.cache});
    if (!prefill.ok()) {
      row.refused = "prompt: " + prefill.status().message();
      return row;
    }
    row.prompt_seconds = prefill.value().prompt_seconds;
    row.question_seconds = prefill.value().question_seconds;
    row.device_bytes = std::max(row.device_bytes, prefill.value().device_bytes);
    row.host_bytes = host_peak_bytes();
    return row;
  }

  PeerRow measure_steps(const Way& way, int tokens, int batch) {
    PeerRow row{.who = "vkv", .way = way.name, .tokens = tokens, .batch = batch};
    const Result<DecodeMeasurement> steps =
        measure_decode({.text = text_,
                        .batch_count = batch,
                        .token_count = tokens,
                        .visual_count = tokens - arguments_.text_tokens,
                        .step_count = arguments_.steps,
                        .cache = way.cache});
    if (!steps.ok()) {
      row.refused = steps.status().message();
      return row;
    }
    // Where the budget is what counts, DRAM is no way out of it.
    if (way.cache.hbm_block_bytes_max == UINT64_MAX && steps.value().dram_bytes > 0) {
      row.refused = "HBM does not hold all blocks";
      return row;
    }
    row.step_seconds = steps.value().seconds;
    row.kv_bytes = steps.value().kv_bytes;
    row.device_bytes = steps.value().device_bytes;
    row.host_bytes = host_peak_bytes();
    return row;
  }

  Status add(PeerRow row) {
    rows_.push_back(std::move(row));
    if (!arguments_.json) print_peer_line(rows_.back());
    return {};
  }

  // As many sequences as the budget holds, with what they need besides blocks, and on the way
  // there.
  Status grow_batches() {
    if (batch_budget_ == 0) return {};
    const int tokens = arguments_.tokens.front();
    for (const char* const precision : {"exact", "visual1", "extreme"}) {
      VKV_TRY_ASSIGN(cache, options_of(precision));
      cache.hbm_bytes_max = batch_budget_;
      const Way way{fmt::format("{} under {}", precision, arguments_.batch_budget), precision,
                    cache};
      spdlog::info("vkv, {}: batches", way.name);
      const PeerRow one = measure_steps(way, tokens, 1);
      VKV_TRY(add(one));
      if (!one.refused.empty()) continue;
      const auto fitting = static_cast<int>(batch_budget_ / one.kv_bytes);
      for (int batch = 4; 4 * batch <= 3 * fitting; batch *= 4)
        VKV_TRY(add(measure_steps(way, tokens, batch)));
      PeerRow most{.refused = "none fits"};
      for (int batch = fitting; batch > 1 && !most.refused.empty(); --batch)
        most = measure_steps(way, tokens, batch);
      if (most.refused.empty()) VKV_TRY(add(most));
    }
    return {};
  }

  const BenchPeersArguments& arguments_;
  TextConfig text_;
  PeerFacts facts_;
  std::vector<Way> ways_;
  std::vector<PeerRow> rows_;
  uint64_t batch_budget_ = 0;
};

}  // namespace

Status bench_peers(const BenchPeersArguments& arguments) { return Bench(arguments).run(); }

}  // namespace vkv
