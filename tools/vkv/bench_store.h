// bench_store.h: `vkv bench store`: what the NVMe tier makes of a disk.
// SPDX-License-Identifier: Apache-2.0
//
// The question: does the store cost anything beside the disk? Napkin: a checksum takes a thread
// .06 s a GB, tickets and locks some 5 us an extent, .005 s a GB at 1 MiB; so at 2 GB/s and several
// operations under way, nothing that shows.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "vkv/status.h"

namespace vkv {

struct BenchStoreArguments {
  std::string folder;        // where the files are made; empty: the temporary folder
  std::string bytes = "1G";  // of extents that are written and read
  std::vector<int> kib = {256, 1024, 4096};  // extent sizes
  std::vector<int> depths = {1, 4, 16};
  int pairs = 9;                 // store and plain loop in turns; the median counts
  std::string recovery = "10G";  // size of the store that is opened again; 0: leave it out
  int tokens = 32768;            // of the sequence that is restored and decoded; 0: leave it out
  std::string preset = "balanced";
  std::string io = "auto";
  bool json = false;
};

// Prints rows to standard output. Needs as much disk as it is told to write. Errors:
// kInvalidArgument, kIo, kUnsupported where io_uring is refused, as the ceiling needs it.
Status bench_store(const BenchStoreArguments& arguments);

// Something that reads, and the disk right before it: disks of virtual machines are faster at one
// minute than at the next.
struct AgainstDisk {
  double seconds = 0;
  double floor_seconds = 0;  // its bytes by the speed of a plain loop
};

// A sequence of a model's shape saved, restored, and decoded with all its blocks on NVMe.
struct SequenceOnDisk {
  uint64_t byte_count = 0;  // that restore() reads
  double save_seconds = 0;
  std::vector<AgainstDisk> restores;
  uint64_t step_bytes = 0;  // that a decode step reads
  std::vector<AgainstDisk> steps;
  double step_wait_seconds = 0;  // of a step, standing still for a read
  double compute_seconds = 0;    // of a step with all blocks in DRAM
};
// read_speed: of the disk now, by reading the file at `path`, in bytes a second.
Result<SequenceOnDisk> time_sequence(const BenchStoreArguments& arguments, const std::string& path,
                                     const std::function<Result<double>()>& read_speed);

}  // namespace vkv
