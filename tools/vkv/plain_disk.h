// plain_disk.h: how fast a disk is to a loop over io_uring that does nothing else: the ceiling.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vkv/status.h"

namespace vkv {

struct DiskRun {
  bool is_write = false;
  std::span<const uint64_t> offsets;  // in the file, in the order of the operations
  uint64_t extent_bytes = 0;          // a multiple of 4096
  int depth = 1;                      // operations under way
  std::span<std::byte> buffers;       // depth * extent_bytes, 4096-aligned
};

struct DiskTime {
  double seconds = 0;
  double cpu_seconds = 0;               // of the process, kernel included
  std::vector<double> latency_seconds;  // from submission to completion, sorted
};

// Moves every extent once with O_DIRECT, registered file and buffers, and one thread that submits
// and reaps. The bytes mean nothing. Errors: kIo, kUnsupported without io_uring.
Result<DiskTime> time_plain_disk(const std::string& path, const DiskRun& run);

// CPU time of the process so far, kernel included.
double cpu_seconds();

}  // namespace vkv
