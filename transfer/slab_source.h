// slab_source.h: pieces of few large slabs, for memory that is slow to get: the GPU's, and pinned.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/base/memory_source.h"
#include "transfer/file_space.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

// Never touches the bytes, nor calls `upstream` twice at once. Slabs go back to `upstream` when the
// source does.
class SlabSource final : public MemorySource {
 public:
  // Counts new slabs in `account` and takes them when they are needed, slab_bytes each, or only as
  // much as a piece needs where no more may be had. account nullptr: only add_slab() gets slabs.
  SlabSource(std::unique_ptr<MemorySource> upstream, uint64_t slab_bytes, MemoryPool* account)
      : upstream_(std::move(upstream)), slab_bytes_(slab_bytes), account_(account) {}
  ~SlabSource() override;

  // A slab that counts nowhere. Errors: those of upstream.
  Status add_slab(uint64_t byte_count);

  // From now on a thread gets the next slab while the last has room left: pinning takes a few
  // milliseconds, which whoever needs memory need not wait for. A slab that the account could miss
  // only narrowly is not taken ahead.
  void grow_ahead() { grows_ahead_ = true; }

  Result<std::byte*> map(uint64_t byte_count) override;
  void unmap(std::byte* data, uint64_t byte_count) override;

 private:
  struct Slab {
    std::span<std::byte> bytes;
    std::unique_ptr<FileSpace> space;  // offsets in it
    MemoryCharge charge;
  };

  // A slab that a thread is getting.
  struct Growth {
    std::future<Result<std::byte*>> data;
    uint64_t byte_count = 0;
    MemoryCharge charge;
  };

  std::byte* find_room(uint64_t byte_count);
  Status add_slab_for(uint64_t byte_count);
  void keep(std::byte* data, uint64_t byte_count, MemoryCharge charge);
  void start_growing();
  void end_growing();  // waits for it

  const std::unique_ptr<MemorySource> upstream_;
  const uint64_t slab_bytes_;
  MemoryPool* const account_;
  std::vector<Slab> slabs_;
  bool grows_ahead_ = false;
  std::optional<Growth> growth_;
};

}  // namespace vkv
