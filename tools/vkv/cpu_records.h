// cpu_records.h: records of random codes in DRAM, as a cache would hold them, to measure with.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/base/backend.h"
#include "tools/vkv/bench_parts.h"
#include "vkv/options.h"
#include "vkv/status.h"

namespace vkv {

struct CpuRecordsOptions {
  KvShape shape;  // `layers` is ignored
  CodecPair codecs;
  int token_count = 0;      // of a sequence
  int batch = 1;            // sequences
  int open_tokens = 128;    // of them, at 16 bit
  uint64_t byte_count = 0;  // at least so many, of two layers or more
  int threads = 0;          // that touch the memory first
  std::vector<int> nodes;   // NUMA nodes that extents lie on by turns; empty: the system decides
};

// Random codes under plausible scales, 16-bit values that are normal. What a sequence has of a
// layer is cut into extents, as a cache cuts it: an item of attention each, and one for its open
// tokens. Immutable.
class CpuRecords {
 public:
  explicit CpuRecords(const CpuRecordsOptions& options);

  int layer_count() const { return layer_count_; }
  uint64_t layer_bytes() const { return layer_bytes_; }  // records and open tokens

  // Items of one layer, those of a sequence together and its open tokens last; q, out and lse are
  // the caller's to set. They borrow blocks from here.
  std::vector<AttendItem> items(int layer) const;

 private:
  struct Sequence {
    std::vector<std::vector<BlockView>> extents;
    std::vector<int> nodes;  // of each extent
    OpenTokens open;
  };

  CpuRecordsOptions options_;
  int layer_count_ = 0;
  uint64_t layer_bytes_ = 0;
  BenchMemory memory_;
  std::vector<float> mean_;          // [kv_heads, head_dim]
  std::vector<Sequence> sequences_;  // [layer_count, batch]
};

}  // namespace vkv
