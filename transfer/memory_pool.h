// memory_pool.h: memory of one tier under a hard budget.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "runtime/base/memory_source.h"
#include "vkv/status.h"
#include "vkv/types.h"

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
  Tier tier() const;  // of its pool; there must be memory

 private:
  friend class MemoryPool;
  MemoryBuffer(MemoryPool* pool, std::span<std::byte> bytes) : pool_(pool), bytes_(bytes) {}

  MemoryPool* pool_ = nullptr;
  std::span<std::byte> bytes_;
};

// Bytes that others hold on a pool's account; gives them back. Moves.
class MemoryCharge {
 public:
  MemoryCharge() = default;
  // Errors: as MemoryPool::charge.
  static Result<MemoryCharge> make(MemoryPool& pool, uint64_t byte_count, std::string_view purpose);
  MemoryCharge(MemoryCharge&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)),
        byte_count_(std::exchange(other.byte_count_, 0)) {}
  MemoryCharge& operator=(MemoryCharge&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(byte_count_, other.byte_count_);
    return *this;
  }
  ~MemoryCharge();

  uint64_t byte_count() const { return byte_count_; }

 private:
  MemoryCharge(MemoryPool* pool, uint64_t byte_count) : pool_(pool), byte_count_(byte_count) {}

  MemoryPool* pool_ = nullptr;
  uint64_t byte_count_ = 0;
};

// Counts every byte it hands out, and bytes that others hold on its account (charge). Thread-safe;
// outlives its buffers.
class MemoryPool {
 public:
  // Of DRAM: anonymous memory of the process, or what the source takes from the system as that.
  explicit MemoryPool(uint64_t bytes_max, std::unique_ptr<MemorySource> source = nullptr);
  // Errors name `tier`. Where the source says no, the budget does not matter.
  MemoryPool(Tier tier, uint64_t bytes_max, std::unique_ptr<MemorySource> source);
  ~MemoryPool();

  // Rounded up to kExtentAlignment. Errors: kOutOfMemory naming the tier, what was asked for, what
  // is in use and the budget; also when the source refuses the memory.
  Result<MemoryBuffer> allocate(uint64_t byte_count, std::string_view purpose);

  // Counts memory that does not come from here. Errors: as allocate.
  Status charge(uint64_t byte_count, std::string_view purpose);
  void discharge(uint64_t byte_count);

  // As its source has it.
  int node_of(const std::byte* data) const;

  Tier tier() const;
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
