// memory_pool.h: memory for extents in DRAM under a hard budget.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "vkv/status.h"

namespace vkv {

class MemoryPool;

// 4096-aligned memory from a pool; returns itself. The bytes are not initialised.
class MemoryBuffer {
 public:
  MemoryBuffer() = default;
  MemoryBuffer(MemoryBuffer&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), bytes_(std::exchange(other.bytes_, {})) {}
  MemoryBuffer& operator=(MemoryBuffer&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MemoryBuffer();

  std::byte* data() const { return bytes_.data(); }
  std::span<std::byte> bytes() const { return bytes_; }
  explicit operator bool() const { return bytes_.data() != nullptr; }

 private:
  friend class MemoryPool;
  MemoryBuffer(MemoryPool* pool, std::span<std::byte> bytes) : pool_(pool), bytes_(bytes) {}

  MemoryPool* pool_ = nullptr;
  std::span<std::byte> bytes_;
};

// Counts every byte it hands out, and bytes that others hold on its account (charge). Thread-safe;
// outlives its buffers.
class MemoryPool {
 public:
  explicit MemoryPool(uint64_t bytes_max);
  ~MemoryPool();

  // Rounded up to kExtentAlignment. Errors: kOutOfMemory naming the dram tier, what was asked for,
  // what is in use and the budget; also when the system refuses the memory.
  Result<MemoryBuffer> allocate(uint64_t byte_count, std::string_view purpose);

  // Counts memory that does not come from here. Errors: as allocate.
  Status charge(uint64_t byte_count, std::string_view purpose);
  void discharge(uint64_t byte_count);

  uint64_t bytes_used() const;
  uint64_t bytes_peak() const;
  uint64_t bytes_max() const;

 private:
  friend class MemoryBuffer;
  void release(std::span<std::byte> bytes);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vkv
