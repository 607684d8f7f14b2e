// dram_reader.h: how fast threads read DRAM, when they do nothing else.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/crew.h"
#include "cpu/teams.h"
#include "cpu/thread_plan.h"
#include "tools/vkv/bench_parts.h"

namespace vkv {

// A plan's threads, and 1 GiB, several times any L3, of which each team has and reads a part on its
// own node.
class DramReader {
 public:
  static constexpr size_t kBytes = size_t{1} << 30;

  explicit DramReader(const ThreadPlan& plan);

  double speed(int repetitions);                       // bytes a second; the median of passes
  uint64_t read_until(const std::atomic<bool>& stop);  // bytes, of whole passes

 private:
  template <class Body>
  void over_pieces(const Body& body);
  void pass();

  BenchMemory memory_;
  Teams teams_;
  std::unique_ptr<Crew> crew_;  // where there are teams of several nodes; ends before them
  std::vector<size_t> ends_;    // of the teams' parts, in pieces
  std::atomic<uint64_t> sum_ = 0;
};

}  // namespace vkv
