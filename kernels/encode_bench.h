// encode_bench.h: how fast the GPU turns 16-bit K and V into records, against its own memory.
// SPDX-License-Identifier: Apache-2.0
//
// The question: does encoding keep up with the memory that it reads? Napkin, for an H100 of 3.1
// TB/s and 28e12 instructions a second: I8 moves 3 bytes a value, 1 ps, and takes some 20
// instructions, 0.7 ps; I4 and I2 search, 80 and 120 instructions a value, and so run at a quarter
// of the memory's speed and less.
#pragma once

#include <string>
#include <vector>

#include "vkv/status.h"

namespace vkv {

struct GpuEncodeBenchArguments {
  int blocks = 1024;  // of 128 tokens
  int kv_heads = 4;
  int head_dim = 128;
  int repetitions = 9;  // the median counts
};

struct GpuEncodeBenchRow {
  std::string what;     // "I8 / I8": K / V
  double moved_mb = 0;  // 16-bit values read and record bytes written
  double us = 0;        // of the device, from the first copy to the last kernel's end
  double host_us = 0;   // until the call returned
  double gb_s = 0;      // moved
  double of_read = 0;   // gb_s against read_gb_s
};

struct GpuEncodeBench {
  std::string device;
  double read_gb_s = 0;  // of a kernel that only reads as many bytes, measured beside the rows
  std::vector<GpuEncodeBenchRow> rows;
};

// On the current device. Records checked by tests/gpu_encode_test.cpp, not here.
// Errors: kUnsupported in a build without CUDA or without a GPU, kInvalidArgument, kOutOfMemory,
// kCuda.
Result<GpuEncodeBench> bench_gpu_encode(const GpuEncodeBenchArguments& arguments);

}  // namespace vkv
