// bench_encode.h: `vkv bench encode`: how fast 16-bit K and V become records.
// SPDX-License-Identifier: Apache-2.0
//
// The question: does encoding keep up with the memory that it reads? Napkin: I8 reads 2 bytes a
// value and writes 1, so with loops that take less than the memory does, it could run at two thirds
// of the speed of memcpy, which reads and writes one byte each.
#pragma once

#include <string>

#include "vkv/status.h"

namespace vkv {

struct BenchEncodeArguments {
  std::string device = "cpu";  // or "cuda": CUDA's current one
  int threads = 0;             // 0: all that the process may use; CPU only
  int blocks = 2048;           // of 128 tokens; each 256 KiB of K and V at the default shape
  int kv_heads = 4;
  int head_dim = 128;
  int repetitions = 3;  // the median counts
  bool json = false;
};

// Prints a row a codec pair to standard output.
// Errors: kInvalidArgument for a shape that cannot be, kOutOfMemory.
Status bench_encode(const BenchEncodeArguments& arguments);

// The same on the GPU, against reads of its memory (kernels/encode_bench.h).
// Errors: as above, and kUnsupported without CUDA or a GPU, kCuda.
Status bench_encode_gpu(const BenchEncodeArguments& arguments);

}  // namespace vkv
