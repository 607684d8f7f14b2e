// main.cpp: the vkv program: reads the command line and runs a subcommand.
// SPDX-License-Identifier: Apache-2.0
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "tools/vkv/bench_command.h"
#include "tools/vkv/calibrate_command.h"
#include "tools/vkv/exit_code.h"
#include "tools/vkv/inspect_command.h"
#include "tools/vkv/plan_command.h"
#include "tools/vkv/quality_command.h"
#include "tools/vkv/run_command.h"
#include "tools/vkv/serve_command.h"
#include "tools/vkv/topo_command.h"
#include "vkv/version.h"

namespace {

constexpr const char* kAbout =
    "VisualKV runs image and video jobs on a multimodal language model whose KV cache is "
    "quantized and kept where it fits: DRAM, and NVMe below it.";

constexpr const char* kFooter = R"(
Start with:
  vkv run --model DIR --image picture.png --prompt "What is it?"
  vkv topo
  vkv bench encode

`vkv run --help` has more examples, the presets and the format of batches.
Exit status: 0 all right, 1 some jobs failed, 2 wrong flags, model or budgets, 130 interrupted.)";

int run(int argc, char** argv) {
  CLI::App app(kAbout, "vkv");
  app.set_version_flag("--version", "vkv " VKV_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);

  vkv::RunArguments run_arguments;
  CLI::App* run_app = app.add_subcommand(
      "run", "Answer questions about pictures and video, one job or a batch of them");
  vkv::add_run_flags(*run_app, run_arguments);

  vkv::ServeArguments serve_arguments;
  CLI::App* serve_app = app.add_subcommand(
      "serve", "Answer over HTTP, as OpenAI's chat completions, many requests at once");
  vkv::add_serve_flags(*serve_app, serve_arguments);

  vkv::QualityArguments quality_arguments;
  CLI::App* quality_app = app.add_subcommand(
      "quality", "Compare ways to store the KV cache with 16 bit: divergence, accuracy, gates");
  vkv::add_quality_flags(*quality_app, quality_arguments);

  vkv::BenchArguments bench_arguments;
  CLI::App* bench_app =
      app.add_subcommand("bench", "Measure how fast the parts are, against this machine's limits");
  vkv::add_bench_commands(*bench_app, bench_arguments);

  vkv::CalibrateArguments calibrate_arguments;
  CLI::App* calibrate_app = app.add_subcommand(
      "calibrate", "Measure how many bits each layer needs, and write a policy for `vkv run`");
  vkv::add_calibrate_flags(*calibrate_app, calibrate_arguments);

  vkv::InspectArguments inspect_arguments;
  CLI::App* inspect_app = app.add_subcommand("inspect", "Show what a kept store has, and check it");
  vkv::add_inspect_flags(*inspect_app, inspect_arguments);

  vkv::PlanArguments plan_arguments;
  CLI::App* plan_app = app.add_subcommand(
      "plan", "Estimate a decode step's time for presets and budgets, and what more HBM would buy");
  vkv::add_plan_flags(*plan_app, plan_arguments);

  vkv::TopoArguments topo;
  CLI::App* topo_app = app.add_subcommand(
      "topo",
      "Show what this machine has: CPUs, caches, memory nodes, GPUs, NVMe disks, and which "
      "engines would be used");
  topo_app->add_option("--machine", topo.machine,
                       "Another machine than this, in hwloc's words (\"node:2 core:16 pu:2\"): its "
                       "nodes, threads and memory alone");
  topo_app->add_flag("--json", topo.json, "Print as JSON");
  topo_app->footer(
      "\nExamples:\n  vkv topo\n  vkv topo --machine \"package:2 node:2 core:8 pu:2\"");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version are "errors" too, with status 0. Their text goes to standard output.
    return app.exit(error) == 0 ? vkv::kExitDone : vkv::kExitUsage;
  }
  if (topo_app->parsed()) return vkv::topo_command(topo);
  if (plan_app->parsed()) return vkv::plan_command(plan_arguments);
  if (inspect_app->parsed()) return vkv::inspect_command(inspect_arguments);
  if (calibrate_app->parsed()) return vkv::calibrate_command(calibrate_arguments);
  if (quality_app->parsed()) return vkv::quality_command(quality_arguments);
  if (bench_app->parsed()) return vkv::bench_command(*bench_app, bench_arguments);
  const bool verbose = run_arguments.verbose || serve_arguments.host.verbose;
  spdlog::set_level(verbose ? spdlog::level::info : spdlog::level::warn);
  if (serve_app->parsed()) return vkv::serve_command(serve_arguments);
  return vkv::run_command(run_arguments);
}

}  // namespace

int main(int argc, char** argv) {
  // The last resort against exceptions of libraries and std::bad_alloc: one line, no crash.
  try {
    spdlog::set_default_logger(spdlog::stderr_color_st("vkv"));
    spdlog::set_pattern("%n: %^%l%$: %v");
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vkv: error: %s\n", error.what());
    return vkv::kExitSomeFailed;
  }
}
