// bench_parts.h: memory and clock of the benchmarks on the CPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "runtime/base/block_format.h"

namespace vkv {

struct FreeDelete {
  void operator()(void* memory) const { std::free(memory); }
};
using BenchMemory = std::unique_ptr<std::byte[], FreeDelete>;

// On page boundaries, not touched yet.
inline BenchMemory allocate_for_bench(size_t byte_count) {
  BenchMemory memory(static_cast<std::byte*>(
      std::aligned_alloc(kExtentAlignment, round_up_bytes(byte_count, kExtentAlignment))));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

// As a cache asks for its memory. Only advice.
inline void advise_huge_pages(std::byte* memory, size_t byte_count) {
  (void)madvise(memory, byte_count, MADV_HUGEPAGE);
}

// Median of the seconds that `body` takes; the first run, which also touches the memory, is left
// out.
template <class Body>
double median_seconds(int repetitions, const Body& body) {
  std::vector<double> seconds;
  for (int i = 0; i <= repetitions; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (i > 0) seconds.push_back(taken.count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + repetitions / 2, seconds.end());
  return seconds[static_cast<size_t>(repetitions / 2)];
}

}  // namespace vkv
