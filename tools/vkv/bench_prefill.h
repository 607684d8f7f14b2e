// bench_prefill.h: `vkv bench prefill`: a prompt until its first logits, with blocks in HBM or not.
// SPDX-License-Identifier: Apache-2.0
//
// The question: does a prompt wait for its K and V to be encoded and to leave for DRAM? Napkin, for
// Qwen2.5-7B and 32K tokens: 0.5 Pflop of products and 0.2 of attention are 1.1 s on an H100; 1.9
// GB of 16-bit K and V take 40 ms through the link, 0.5 GB of 4-bit records 10, if nobody waits.
#pragma once

#include <string>
#include <vector>

#include "tools/vkv/hbm_arguments.h"
#include "vkv/status.h"

namespace vkv {

struct BenchPrefillArguments {
  std::string model = "qwen2.5-7b";                             // one of model_shape_names()
  std::vector<std::string> precisions = {"exact", "balanced"};  // presets, pairs or files
  int tokens = 32768;                                           // of the prompt, one window
  int text_tokens = 256;                                        // of them, not visual
  int question_tokens = 32;                                     // of the question behind it
  int rounds = 3;
  HbmArguments hbm;   // no budget: enough for all
  std::string trace;  // a file for a Chrome trace of the last row; empty: none
  bool json = false;
};

// For each precision, with all blocks in HBM and with none there, prints a line to standard output.
// Errors: as bench_decode().
Status bench_prefill(const BenchPrefillArguments& arguments);

}  // namespace vkv
