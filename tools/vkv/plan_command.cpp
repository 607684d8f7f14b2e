// plan_command.cpp: estimates for presets and budgets, as a table.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/plan_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/gpu_devices.h"
#include "kernels/measure_attend.h"
#include "runtime/step_model.h"
#include "tools/mllm/checkpoint.h"
#include "tools/vkv/byte_size.h"
#include "tools/vkv/exit_code.h"
#include "tools/vkv/model_shapes.h"

namespace vkv {
namespace {

constexpr const char* kAbout = R"(
The least time of a decode step of one sequence on a GPU, by what it has to read and how fast that
can be read. Weights and the blocks that have room lie in HBM; the other blocks lie in DRAM, and
come through the link while HBM is read, and then:
  bits      of a visual value, with scales
  in DRAM   what does not fit the HBM for blocks
  step      at least; `vkv bench decode` measures how near a step comes
  waits     of it, for DRAM
  bound by  what would have to be faster: hbm, link, or link and cpu
and last how much HBM for blocks makes the waiting end. Speeds are measured where there is a GPU,
and can be given for a machine that is not there. Examples:
  vkv plan --tokens 131072 --hbm-speed 3000 --link-speed 50 --cpu-speed 30
  vkv plan --model llava-1.5-7b --tokens 32768 --presets balanced,visual1 --hbm-blocks 0,2G)";

constexpr double kGiga = 1e9;

struct Row {
  std::string preset;
  uint64_t hbm_room = 0;
  StepBytes bytes;
  double bits = 0;
  StepEstimate estimate;
};

const char* text(StepBound bound) {
  switch (bound) {
    case StepBound::kHbm:
      return "hbm";
    case StepBound::kLink:
      return "link";
    default:
      return "link and cpu";
  }
}

Result<TextConfig> text_of(const std::string& model) {
  std::error_code none;
  if (!std::filesystem::exists(model, none)) return named_text_shape(model);
  VKV_TRY_ASSIGN(checkpoint, open_checkpoint(model));
  return checkpoint.config.text;
}

Result<ReadSpeeds> speeds_of(const PlanArguments& a) {
  ReadSpeeds speeds{a.hbm_speed * kGiga, a.link_speed * kGiga, a.cpu_speed * kGiga};
  if (speeds.hbm > 0 && speeds.link > 0) return speeds;
  const auto devices = list_gpu_devices();
  if (!devices.ok() || devices.value().empty())
    return Status(Code::kInvalidArgument,
                  "there is no GPU here to measure: give --hbm-speed and --link-speed, in GB/s");
  if (speeds.hbm == 0) {
    VKV_TRY_ASSIGN(hbm, measure_read_speed(Tier::kHbm));
    speeds.hbm = hbm;
  }
  if (speeds.link == 0) {
    VKV_TRY_ASSIGN(link, measure_read_speed(Tier::kDram));
    speeds.link = link;
  }
  return speeds;
}

// HBM for blocks with which the rest arrives while HBM is read.
uint64_t enough_hbm(uint64_t weights, const SequenceBytes& sequence, const ReadSpeeds& speeds) {
  const double ratio = speeds.link / speeds.hbm;
  const auto blocks = static_cast<double>(sequence.blocks);
  const auto others = static_cast<double>(weights + sequence.open);
  return static_cast<uint64_t>(std::max(0.0, (blocks - ratio * others) / (1 + ratio)));
}

struct Plan {
  uint64_t weights = 0;  // bytes
  ReadSpeeds speeds;
  std::vector<Row> rows;
  std::vector<std::pair<std::string, uint64_t>> enough;  // preset, HBM for blocks
};

Result<Plan> make_plan(const PlanArguments& a) {
  if (a.text_tokens > a.tokens)
    return Status(Code::kInvalidArgument, fmt::format("--text-tokens is {}, more than --tokens, {}",
                                                      a.text_tokens, a.tokens));
  VKV_TRY_ASSIGN(text_config, text_of(a.model));
  Plan plan;
  plan.weights = step_weight_bytes(text_config);
  VKV_TRY_ASSIGN(speeds, speeds_of(a));
  plan.speeds = speeds;
  const KvShape shape = {.layers = text_config.layers,
                         .q_heads = text_config.q_heads,
                         .kv_heads = text_config.kv_heads,
                         .head_dim = text_config.head_dim};
  std::vector<std::string> presets = a.presets;
  if (presets.empty())
    for (const std::string_view name : precision_preset_names()) presets.emplace_back(name);
  for (const std::string& preset : presets) {
    VKV_TRY_ASSIGN(policy, precision_preset(preset));
    const SequenceBytes sequence =
        estimate_bytes(shape, policy, a.recent_tokens, static_cast<uint64_t>(a.tokens),
                       static_cast<uint64_t>(a.tokens - a.text_tokens));
    plan.enough.emplace_back(preset, enough_hbm(plan.weights, sequence, speeds));
    for (const std::string& size : a.hbm_blocks) {
      VKV_TRY_ASSIGN(room, parse_byte_size(size));
      const uint64_t in_hbm = std::min<uint64_t>(room, sequence.blocks);
      Row row{.preset = preset,
              .hbm_room = room,
              .bytes = {plan.weights, in_hbm + sequence.open, sequence.blocks - in_hbm},
              .bits = sequence.bits_per_visual_value};
      row.estimate = estimate_step(row.bytes, speeds);
      plan.rows.push_back(row);
    }
  }
  return plan;
}

void print_json(const PlanArguments& a, const Plan& plan) {
  nlohmann::json json = {{"model", a.model},
                         {"tokens", a.tokens},
                         {"weight_bytes", plan.weights},
                         {"hbm_gb_s", plan.speeds.hbm / kGiga},
                         {"link_gb_s", plan.speeds.link / kGiga},
                         {"cpu_gb_s", plan.speeds.host / kGiga},
                         {"rows", nlohmann::json::array()}};
  for (const Row& row : plan.rows)
    json["rows"].push_back({{"preset", row.preset},
                            {"bits_per_visual_value", row.bits},
                            {"hbm_blocks_bytes", row.hbm_room},
                            {"hbm_kv_bytes", row.bytes.hbm_kv},
                            {"dram_kv_bytes", row.bytes.dram_kv},
                            {"step_ms", row.estimate.seconds * 1e3},
                            {"hbm_ms", row.estimate.hbm_seconds * 1e3},
                            {"ahead_bytes", row.estimate.ahead_bytes},
                            {"link_bytes", row.estimate.link_bytes},
                            {"cpu_bytes", row.estimate.host_bytes},
                            {"bound_by", text(row.estimate.bound)}});
  for (const auto& [preset, bytes] : plan.enough) json["no_wait_hbm_bytes"][preset] = bytes;
  fmt::print("{}\n", json.dump(1));
}

void print_table(const PlanArguments& a, const Plan& plan) {
  fmt::print("model   {}: {:.2f} GB of 16-bit weights a step\n", a.model,
             static_cast<double>(plan.weights) / kGiga);
  fmt::print("cache   {} tokens, {} of them visual\n", a.tokens, a.tokens - a.text_tokens);
  fmt::print("speeds  HBM {:.0f}, link {:.1f}, CPU {:.1f} GB/s\n\n", plan.speeds.hbm / kGiga,
             plan.speeds.link / kGiga, plan.speeds.host / kGiga);
  fmt::print("{:<9} {:>5}  {:>10}  {:>10}  {:>10}  {:>9}  {:>9}  bound by\n", "preset", "bits",
             "HBM blocks", "in HBM", "in DRAM", "step", "waits");
  std::string last;
  for (const Row& row : plan.rows) {
    const bool first = row.preset != last;
    last = row.preset;
    fmt::print("{:<9} {:>5}  {:>10}  {:>10}  {:>10}  {:>6.2f} ms  {:>6.2f} ms  {}\n",
               first ? row.preset : "", first ? fmt::format("{:.2f}", row.bits) : "",
               byte_size_text(row.hbm_room), byte_size_text(row.bytes.hbm_kv),
               byte_size_text(row.bytes.dram_kv), row.estimate.seconds * 1e3,
               (row.estimate.seconds - row.estimate.hbm_seconds) * 1e3, text(row.estimate.bound));
  }
  fmt::print("\nHBM for blocks with which nothing waits:");
  for (const auto& [preset, bytes] : plan.enough)
    fmt::print("  {} {}", preset, byte_size_text(bytes));
  fmt::print("\n");
}

}  // namespace

void add_plan_flags(CLI::App& command, PlanArguments& a) {
  command.footer(kAbout);
  command.add_option("--model", a.model, "A checkpoint, or the shapes of: " + model_shape_names())
      ->capture_default_str();
  const auto number = [&](const char* flag, int& value, int least, int most, const char* what) {
    command.add_option(flag, value, what)->check(CLI::Range(least, most))->capture_default_str();
  };
  number("--tokens", a.tokens, 1, 1 << 24, "Tokens in the cache");
  number("--text-tokens", a.text_tokens, 0, 1 << 24, "Of them, text; the rest is visual");
  number("--recent-tokens", a.recent_tokens, 16, 4096, "Newest tokens kept at 16 bit");
  command.add_option("--presets", a.presets, "Precision presets (default: all)")->delimiter(',');
  command.add_option("--hbm-blocks", a.hbm_blocks, "GPU memory for blocks, sizes to compare")
      ->delimiter(',')
      ->capture_default_str();
  const auto speed = [&](const char* flag, double& value, const char* what) {
    command.add_option(flag, value, what)->check(CLI::Range(0.0, 1e6));
  };
  speed("--hbm-speed", a.hbm_speed, "GB/s that the GPU reads its memory at (default: measured)");
  speed("--link-speed", a.link_speed, "GB/s that the GPU reads DRAM at (default: measured)");
  speed("--cpu-speed", a.cpu_speed,
        "GB/s of attention by the CPU beside it, as `vkv bench cpu` has it (default: none)");
  command.add_flag("--json", a.json, "Print as JSON");
}

int plan_command(const PlanArguments& arguments) {
  const Result<Plan> plan = make_plan(arguments);
  if (!plan.ok()) {
    spdlog::error("{}", plan.status().message());
    return kExitUsage;
  }
  if (arguments.json)
    print_json(arguments, plan.value());
  else
    print_table(arguments, plan.value());
  return kExitDone;
}

}  // namespace vkv
