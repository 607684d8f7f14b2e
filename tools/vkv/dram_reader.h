// dram_reader.h: how fast threads read DRAM, when they do nothing else.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <tbb/task_arena.h>

#include <atomic>
#include <cstdint>

#include "tools/vkv/bench_parts.h"

namespace vkv {

// So many threads, and 1 GiB that they touched first: several times any L3.
class DramReader {
 public:
  static constexpr size_t kBytes = size_t{1} << 30;

  explicit DramReader(int threads);

  double speed(int repetitions);                       // bytes a second; the median of passes
  uint64_t read_until(const std::atomic<bool>& stop);  // bytes, of whole passes

 private:
  void pass();

  BenchMemory memory_;
  tbb::task_arena arena_;
  std::atomic<uint64_t> sum_ = 0;
};

}  // namespace vkv
