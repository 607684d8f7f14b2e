// bench_decode.h: `vkv bench decode`: how long a decode step takes, against its bytes.
// SPDX-License-Identifier: Apache-2.0
//
// The question: is a step bound by memory? Napkin, for Qwen2.5-7B at 32K tokens on an H100 that
// reads 3.0 TB/s: 14.1 GB of weights are 4.7 ms, 1.9 GB of 16-bit K and V 0.6 ms, and 4 bits 0.2
// ms; some 14 kernels a layer, in 28 layers, must not take more than another millisecond to begin
// and end.
#pragma once

#include <string>
#include <vector>

#include "tools/vkv/hbm_arguments.h"
#include "vkv/status.h"

namespace vkv {

struct BenchDecodeArguments {
  std::string model = "qwen2.5-7b";  // one of model_shape_names()
  // What is measured: every combination.
  std::vector<std::string> precisions = {"balanced"};  // presets, codec pairs or files
  std::vector<int> tokens = {32768};                   // in the cache, of each sequence
  std::vector<int> batches = {1};                      // sequences
  std::vector<std::string> paths;  // of decode_paths(); empty: one, by the flags of `hbm`
  int text_tokens = 256;           // of `tokens`, not visual
  int steps = 64;
  std::string device = "cuda";
  int recent_tokens = 128;
  HbmArguments hbm;   // no budget: enough for all
  std::string trace;  // a file for a Chrome trace; empty: none
  int trace_steps = 3;
  std::string report;  // a file of HTML; empty: none
  bool json = false;
};

// How blocks may be read: "resident" (all in HBM), and none in HBM: "zero-copy" (by the GPU as it
// attends), "stream" (copied ahead, too), "cpu" (all by the CPU), "split" (all three).
const std::vector<std::string>& decode_paths();

// Prints what a step reads, how long it takes and where the time goes to standard output; of
// several combinations a line each, and one that does not fit says so.
// Errors: kInvalidArgument for a model, policy or number that cannot be, kUnsupported without CUDA
// or a GPU, kOutOfMemory, kCuda, kIo for a file that cannot be written.
Status bench_decode(const BenchDecodeArguments& arguments);

}  // namespace vkv
