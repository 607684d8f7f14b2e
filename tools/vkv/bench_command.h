// bench_command.h: `vkv bench`: how fast the parts are on this machine, against its limits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tools/vkv/bench_attend.h"
#include "tools/vkv/bench_cpu.h"
#include "tools/vkv/bench_decode.h"
#include "tools/vkv/bench_encode.h"
#include "tools/vkv/bench_peers.h"
#include "tools/vkv/bench_prefill.h"
#include "tools/vkv/bench_store.h"

namespace CLI {
class App;
}

namespace vkv {

struct BenchArguments {
  BenchAttendArguments attend;
  BenchDecodeArguments decode;
  BenchPrefillArguments prefill;
  BenchPeersArguments peers;
  BenchCpuArguments cpu;
  BenchEncodeArguments encode;
  BenchStoreArguments store;
};

// Adds a subcommand for each question; parsing fills `arguments`, which must stay.
void add_bench_commands(CLI::App& command, BenchArguments& arguments);

// Runs what was parsed. Returns the exit status (exit_code.h).
int bench_command(const CLI::App& command, const BenchArguments& arguments);

}  // namespace vkv
