// bench_recovery.h: how long a large store takes to open.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "vkv/status.h"

namespace vkv {

struct Recovery {
  uint64_t committed_bytes = 0;
  uint64_t sequence_count = 0;
  uint64_t index_bytes = 0;
  double seconds = 0;             // after its owner has closed it
  double seconds_after_kill = 0;  // after its owner was killed while it wrote
};

// Fills a kept store at `path` with sequences of 64 extents of 1 MiB.
Result<Recovery> time_recovery(const std::string& path, uint64_t byte_count);

}  // namespace vkv
