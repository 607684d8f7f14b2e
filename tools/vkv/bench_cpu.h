// bench_cpu.h: `vkv bench cpu`: how fast attention on the CPU reads records, against DRAM.
// SPDX-License-Identifier: Apache-2.0
//
// The question: is attention bound by DRAM? Napkin, for 16 threads that read 200 GB/s together: a
// thread gets a byte in 0.08 ns, so a block of 128 tokens and channels of one KV head, 33 KiB of
// K and V at 8 bits and 5 KiB at 1, may take 2.7 us and .4 us. Its products alone take .15 us of
// VNNI for one query, and 1 us for seven.
#pragma once

#include <string>
#include <vector>

#include "vkv/status.h"

namespace vkv {

struct BenchCpuArguments {
  int q_heads = 28;
  int kv_heads = 4;
  int head_dim = 128;
  int tokens = 131072;  // of a sequence
  int batch = 1;        // sequences
  int q_len = 1;
  int awake_us = 0;                                                    // as in CpuBackendOptions
  int threads = 0;                                                     // 0: all usable
  std::vector<std::string> codecs = {"bf16", "i8", "i4", "i2", "i1"};  // or pairs: i4/i2
  std::vector<std::string> engines;  // of CpuBackendOptions; empty: the one that would be chosen
  int repetitions = 5;               // of a round over all layers; the median counts
  std::string torch;   // a Python interpreter with PyTorch, to be measured beside; or empty
  bool parts = false;  // also what parts of a tile take
  bool json = false;
};

// Prints a row for each engine and codec pair to standard output: bytes, median time, and the
// fraction of the speed at which the same number of threads only read, measured in the same run.
// Errors: kInvalidArgument for a shape, codecs or engines that cannot be, kUnsupported for an
// engine that this CPU cannot run, or a Python without PyTorch.
Status bench_cpu(const BenchCpuArguments& arguments);

}  // namespace vkv
