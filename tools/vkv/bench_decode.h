// bench_decode.h: `vkv bench decode`: how long a decode step takes, against its bytes.
// SPDX-License-Identifier: Apache-2.0
//
// The question: is a step bound by memory? Napkin, for Qwen2.5-7B at 32K tokens on an H100 that
// reads 3.0 TB/s: 14.1 GB of weights are 4.7 ms, 1.9 GB of 16-bit K and V 0.6 ms, and 4 bits 0.2
// ms; some 14 kernels a layer, in 28 layers, must not take more than another millisecond to begin
// and end.
#pragma once

#include <string>

#include "tools/vkv/hbm_arguments.h"
#include "vkv/status.h"

namespace vkv {

struct BenchDecodeArguments {
  std::string model = "qwen2.5-7b";  // one of model_shape_names()
  int tokens = 32768;                // in the cache
  int text_tokens = 256;             // of them, not visual
  int steps = 64;
  std::string preset = "balanced";
  std::string policy;  // name, codec pair or file; empty: the preset
  std::string device = "cuda";
  int recent_tokens = 128;
  HbmArguments hbm;  // no budget: enough for all
  bool json = false;
};

// Prints what a step reads, how long it takes and where the time goes to standard output.
// Errors: kInvalidArgument for a model, policy or number that cannot be, kUnsupported without CUDA
// or a GPU, kOutOfMemory, kCuda.
Status bench_decode(const BenchDecodeArguments& arguments);

}  // namespace vkv
