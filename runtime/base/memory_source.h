// memory_source.h: where a pool's memory comes from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/base/numa_node.h"
#include "vkv/status.h"

namespace vkv {

// One thread at a time, but for node_of(): its pool's lock guards it.
class MemorySource {
 public:
  virtual ~MemorySource() = default;

  // byte_count is a multiple of kExtentAlignment, and what comes back is aligned to it; not
  // initialised. Errors: kOutOfMemory with the name of what refused, kCuda.
  virtual Result<std::byte*> map(uint64_t byte_count) = 0;

  // Exactly what map() gave.
  virtual void unmap(std::byte* data, uint64_t byte_count) = 0;

  // The NUMA node that a byte of what map() gave lies on, where there are several.
  virtual int node_of(const std::byte*) const { return kUnknownNode; }
};

}  // namespace vkv
