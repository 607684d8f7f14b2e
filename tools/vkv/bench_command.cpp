// bench_command.cpp: the flags of `vkv bench`.
// SPDX-License-Identifier: Apache-2.0
#include "tools/vkv/bench_command.h"

#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>

#include "tools/vkv/exit_code.h"

namespace vkv {
namespace {

constexpr const char* kAbout = R"(
Each benchmark measures a limit of this machine in the same run and compares with it. Speeds
depend on what else runs: look at the fraction of the limit, not at the speed alone.

Examples:
  vkv bench encode               all threads, 512 MiB of K and V
  vkv bench encode --threads 1   one thread: what the arithmetic takes
  vkv bench encode --device cuda --blocks 1024
  vkv bench encode --json        for scripts)";

constexpr const char* kEncodeAbout = R"(
Encodes blocks of 128 tokens that lie in memory, not in a cache, and prints for each pair of codecs
  GB/s             of 16-bit K and V
  of memcpy        that speed against memcpy of 256 MiB by the same threads
  ns/value         all threads together
  ns/value cached  the same when four blocks are encoded again and again: what the arithmetic takes.
                   Where it is close to ns/value, the arithmetic is the limit, else the memory.
With --device cuda the limit is a kernel that only reads:
  MB               16-bit K and V read, and records written
  us, GB/s         of the device, for these bytes
  of read          that speed against reading
  host us          until the call returned)";

}  // namespace

void add_bench_commands(CLI::App& command, BenchArguments& arguments) {
  command.require_subcommand(1);
  command.footer(kAbout);

  CLI::App* encode = command.add_subcommand("encode", "16-bit K and V to records, by codec");
  encode->footer(kEncodeAbout);
  BenchEncodeArguments& a = arguments.encode;
  encode->add_option("--device", a.device, "What encodes")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  encode->add_option("--threads", a.threads, "Threads; 0: all that the process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  encode->add_option("--blocks", a.blocks, "Blocks of 128 tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  encode->add_option("--kv-heads", a.kv_heads, "KV heads")
      ->check(CLI::Range(1, 128))
      ->capture_default_str();
  encode->add_option("--head-dim", a.head_dim, "Channels of a head, in 8s up to 256")
      ->capture_default_str();
  encode->add_option("--repetitions", a.repetitions, "The median of these counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  encode->add_flag("--json", a.json, "Print as JSON");
}

int bench_command(const CLI::App& command, const BenchArguments& arguments) {
  Status status;
  if (command.got_subcommand("encode"))
    status = arguments.encode.device == "cuda" ? bench_encode_gpu(arguments.encode)
                                               : bench_encode(arguments.encode);
  if (status.ok()) return kExitDone;
  spdlog::error("{}", status.message());
  return status.code() == Code::kInvalidArgument ? kExitUsage : kExitSomeFailed;
}

}  // namespace vkv
