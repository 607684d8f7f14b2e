// bench_attend.h: `vkv bench attend`: how fast the GPU reads records while it attends to them.
// SPDX-License-Identifier: Apache-2.0
//
// The question: is attention bound by memory? Napkin, for an H100 at 128 channels and 128 tokens: a
// block of one KV head is 5 KiB at 1 bit and 33 KiB at 8, and its products, weights and scales take
// some 2,000 instructions of a warp, so at 1 and 2 bits instructions are the limit.
//
// With more than 16 queries, a chunk of a prompt: is it bound by products? 2,048 queries over 32K
// tokens and each other are 1e12 operations of 28 heads x 128: 1.3 ms at the 790 TFLOP/s of large
// products. Decoding the records to fp16 moves 90 MB: 0.04 ms.
#pragma once

#include <string>
#include <vector>

#include "vkv/status.h"

namespace vkv {

struct BenchAttendArguments {
  int q_heads = 28;
  int kv_heads = 4;
  int head_dim = 128;
  int tokens = 131072;  // of a sequence
  int batch = 1;        // sequences
  int q_len = 1;        // more than 16: a chunk of a prompt, which sees itself causally
  std::vector<std::string> codecs = {"bf16", "i8", "i4", "i2", "i1"};  // or pairs: i4/i2
  std::string tier = "hbm";                                            // or "dram": read in place
  std::string torch;  // a Python interpreter with PyTorch, to be measured beside; or empty
  bool json = false;
};

// Prints a row a codec pair to standard output: bytes, median time, and the fraction of the read
// speed of the tier, measured in the same run; of chunks the rate of products instead. Beside it
// what PyTorch takes at bf16, where that is asked for.
// Errors: kInvalidArgument for a shape or codecs that cannot be, kUnsupported without CUDA or a
// GPU, kOutOfMemory, kCuda.
Status bench_attend(const BenchAttendArguments& arguments);

}  // namespace vkv
