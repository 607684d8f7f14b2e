// measure_decode.h: how long a decode step on the GPU takes, against the bytes it has to read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/activity_trace.h"
#include "tools/mllm/model_config.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct DecodeMeasurementOptions {
  TextConfig text;       // weights are random, of bf16
  int batch_count = 1;   // sequences that step together
  int token_count = 0;   // of each in the cache before the first step
  int visual_count = 0;  // of them, visual; in the middle
  int step_count = 0;    // that are timed
  int trace_count = 0;   // of steps after those, recorded
  CacheOptions cache;    // device cuda; shape, element, stream and HBM budget are filled in
};

// Bytes are those of all sequences; seconds are medians over steps, of a token of each of them.
struct DecodeMeasurement {
  uint64_t weight_bytes = 0;  // read by a step
  uint64_t kv_bytes = 0;      // stored for the sequences, tables included
  uint64_t hbm_bytes = 0;     // of the cache's budget, in use
  uint64_t device_bytes = 0;  // of the whole GPU, in use
  double bits_per_value = 0;  // of K and V
  double read_bytes_per_second = 0;
  uint64_t dram_bytes = 0;  // of K and V, in DRAM
  double link_bytes_per_second = 0;
  // Of the steps, who read of that, and how fast (CacheStats).
  uint64_t host_read_bytes = 0;
  uint64_t link_read_bytes = 0;
  uint64_t ahead_read_bytes = 0;
  double ahead_read_rate = 0;
  double host_read_rate = 0;
  double link_read_rate = 0;
  double seconds = 0;        // with the logits on the host
  double seconds_max = 0;    // the slowest: with a block sealed in every layer, if there was one
  double seconds_plain = 0;  // without CUDA graphs
  double attention_seconds = 0;  // append and attend
  double products_seconds = 0;   // with weights, alone, one behind another
  double cublas_seconds = 0;     // the same by cuBLASLt
  std::vector<ActivitySpan> trace;

  // What lies in HBM at its speed; meanwhile the link brings what lies in DRAM, and the rest of
  // that is read by the link and the CPU together.
  double bound_seconds() const {
    const double hbm_seconds =
        static_cast<double>(weight_bytes + kv_bytes - dram_bytes) / read_bytes_per_second;
    if (dram_bytes == 0) return hbm_seconds;
    const double rest = static_cast<double>(dram_bytes) - hbm_seconds * link_bytes_per_second;
    return hbm_seconds + std::max(0.0, rest) / (link_bytes_per_second + host_read_rate);
  }
};

// Fills a cache with random K and V through Cache::append, in windows, and decodes.
// Errors: kUnsupported in a build without CUDA or without a GPU; those of Cache::open and
// CudaDecoder; kOutOfMemory, kCuda.
Result<DecodeMeasurement> measure_decode(const DecodeMeasurementOptions& options);

}  // namespace vkv
