// bench_peers.h: `vkv bench peers`: steps, prompts and batches beside transformers' caches.
// SPDX-License-Identifier: Apache-2.0
//
// The question: what does somebody gain who keeps K and V in this cache instead of the ones that
// come with transformers? Napkin, for Qwen2.5-7B, 128K tokens in DRAM and a link of 50 GB/s: 7.5 GB
// at 16 bit are 150 ms a step, copied without overlap several times that; 2.5 bits are 23 ms.
#pragma once

#include <string>
#include <vector>

#include "vkv/status.h"

namespace vkv {

struct BenchPeersArguments {
  std::string model = "qwen2.5-7b";  // one of model_shape_names()
  std::string python = "python3";    // with PyTorch and transformers; "none": ours alone
  std::vector<int> tokens = {32768, 131072};
  int prompt_tokens = 32768;  // one of `tokens`; 0: no prompts
  int text_tokens = 256;
  std::vector<std::string> precisions = {"safe", "balanced", "visual2", "visual1", "extreme"};
  std::vector<std::string> hbm_blocks = {"0", "1G", "4G"};  // of blocks, sizes
  std::string batch_budget = "8G";                          // of HBM; "0": no batches
  int steps = 16;
  std::string report;  // a file of HTML; empty: none
  bool json = false;
};

// Runs the peers in a process of their own, then ours, on the same GPU, and prints a table to
// standard output; progress goes to standard error. Without a Python that has the peers it says so
// and measures ours. Errors: as bench_decode().
Status bench_peers(const BenchPeersArguments& arguments);

}  // namespace vkv
