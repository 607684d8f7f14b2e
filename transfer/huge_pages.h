// huge_pages.h: anonymous memory whose pages are there before anybody uses them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "runtime/base/memory_source.h"

namespace vkv {

// Huge pages where the system has them, made by a few threads: for large pieces, a driver's to pin
// or a disk's to write. Threads may map and unmap at once.
class HugePages final : public MemorySource {
 public:
  Result<std::byte*> map(uint64_t byte_count) override;
  void unmap(std::byte* data, uint64_t byte_count) override;
};

}  // namespace vkv
