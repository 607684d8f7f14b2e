// placement.h: which extents stay in the engine's memory when they do not all fit.
// SPDX-License-Identifier: Apache-2.0
//
// Decode reads every block of a sequence once a step, layer by layer: what was used last is needed
// last, so recency says nothing. What counts is value: originals go first, then low-precision
// blocks; of a kind, early layers stay, so that reads of later layers have a head start. Not
// thread-safe: the cache's lock guards it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/extent.h"
#include "transfer/block_store.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

// All outlive every extent.
struct PlacementTiers {
  Backend& backend;
  MemoryPool& pool;              // the engine's memory: DRAM, or HBM
  MemoryPool& host_pool;         // for tables; the same on the CPU
  MemoryPool* pinned = nullptr;  // DRAM that a GPU reads: takes what HBM cannot; nullptr: none
  BlockStore* store = nullptr;   // takes what DRAM cannot; nullptr: no NVMe tier
  uint64_t block_bytes_max = 0;  // in the engine's memory, where there is a next tier
  uint64_t pinned_block_bytes_max = 0;  // in `pinned`, where there is a store
};

// Room of the host's: a buffer, or only counted.
struct HostRoom {
  MemoryBuffer buffer;
  MemoryCharge charge;
};

class Placement {
 public:
  explicit Placement(const PlacementTiers& tiers);

  Backend& backend() const { return backend_; }
  MemoryPool& host_pool() const { return host_pool_; }

  // The engine's memory, demoting extents of less value until it fits. Errors: kOutOfMemory naming
  // the tier that is full, kIo when a demotion could not be written; nothing is lost.
  Result<MemoryBuffer> allocate(uint64_t byte_count, std::string_view purpose);
  // The same for what is small and shared.
  Result<std::shared_ptr<ChargedBytes>> allocate_shared(size_t byte_count,
                                                        std::string_view purpose);

  // Memory of the host that a disk may read and write and the engine may copy from and to, and room
  // for the host's own values. Errors: as allocate().
  Result<MemoryBuffer> allocate_for_io(uint64_t byte_count, std::string_view purpose);
  Result<HostRoom> allocate_for_host(uint64_t byte_count, std::string_view purpose);

  // Takes a sealed extent into account, and demotes what exceeds the share of blocks. Errors:
  // kOutOfMemory naming the tier that is full, kIo; the extent is then gone.
  Result<std::shared_ptr<Extent>> admit(int layer, ExtentContent content, MemoryBuffer bytes);

  // An extent that lies in the store, where its caller holds it; the placement holds it too from
  // now on. Errors: kOutOfMemory.
  Result<std::shared_ptr<Extent>> adopt(int layer, ExtentContent content,
                                        const StoreExtent& stored);

  // Reads extents that are only in the store, those of most value first and into the fastest tier,
  // as far as there is room without demoting others. Errors: kIo, kDataLoss; extents are then as
  // they were or read.
  Status load(std::vector<Extent*> extents);

  // Starts writing an extent that is in memory and not in the store; it stays in memory. The caller
  // waits, and calls forget_stored() where that fails. bounce: memory for I/O as large as the
  // extent, that it is written from where a disk cannot reach it; the caller's until then. Errors:
  // kOutOfMemory, kIo.
  bool needs_bounce(const Extent& extent) const { return extent.tier() == Tier::kHbm; }
  Result<IoTicket> submit_store(Extent& extent, std::span<std::byte> bounce = {});
  void forget_stored(Extent& extent);

  // Moves all originals that lie in DRAM to NVMe. Errors: kOutOfMemory, kIo.
  Status demote_originals();

  // Has extents of most value that a faster tier has room for by now, as after an erase(), move up,
  // a few at a time, while other work goes on: ends what earlier calls have started and starts the
  // next. After an attend; waits for no copy and no disk. Originals stay, and what a disk cannot
  // read. Errors: those of the engine.
  Status rise();

  // Called by the extent's destructor.
  void forget(Extent& extent);

  // How often an extent's bytes have come to lie elsewhere.
  uint64_t move_count() const { return move_count_; }
  uint64_t demoted_bytes() const { return demoted_bytes_; }
  uint64_t risen_bytes() const { return risen_bytes_; }
  uint64_t extent_count(Tier tier) const { return extent_count_[static_cast<size_t>(tier)]; }
  uint64_t original_bytes(Tier tier) const { return original_bytes_[static_cast<size_t>(tier)]; }

 private:
  struct LeastValueFirst {
    bool operator()(const Extent* a, const Extent* b) const;
  };

  // Extents in one tier's memory: the engine's, and on CUDA pinned DRAM behind it.
  struct Level {
    MemoryPool* pool = nullptr;
    uint64_t block_bytes_max = 0;
    std::set<Extent*, LeastValueFirst> extents;
    uint64_t bytes = 0;
  };
  // What load() reads, and where to.
  struct Load;
  // An extent on its way up; what it has, counts until then.
  struct Rise {
    Extent* extent = nullptr;
    size_t level = 0;  // where to
    MemoryBuffer bytes;
    uint64_t stretch = 0;  // of the copy: Backend::join()
    bool from_disk = false;
    uint64_t mark = 0;                  // from which on a disk may write to `bytes`
    IoTicket ticket = IoTicket::kNone;  // of the read; kNone: not begun
  };

  bool is_last(const Level& level) const { return &level == &levels_.back(); }
  bool can_demote(const Level& level) const {
    return !level.extents.empty() && (!is_last(level) || store_ != nullptr);
  }
  Level* level_of(const Extent& extent);  // nullptr: in the store
  Result<MemoryBuffer> allocate_in(Level& level, uint64_t byte_count, std::string_view purpose);
  // Demotes what exceeds the share of blocks.
  Status keep_share(Level& level);
  // Moves extents of least value to the next tier, at least `byte_count` bytes of them.
  Status demote(Level& level, uint64_t byte_count);
  std::vector<Extent*> least_of(const Level& level, uint64_t byte_count);
  // Copies to pinned memory. What is queued on the engine's stream is in order.
  Status copy_out(const std::vector<Extent*>& extents);
  std::vector<Load> make_room(const std::vector<Extent*>& extents);
  // Writes what is not written yet, waits, and frees the DRAM of those that were written.
  Status write_out(const std::vector<Extent*>& extents);
  // `bytes`: where it lies now; empty: in the store.
  void moved(Extent& extent, MemoryBuffer bytes);
  void demoted(Extent& extent, MemoryBuffer bytes);
  Status end_rises();
  Status start_rises(size_t level_index);
  Extent* next_to_rise(size_t level_index);  // nullptr: none, or no room for it
  void start_read(Rise& rise);               // where its mark is reached
  bool is_over(Rise& rise);                  // starts its read where that is not yet done
  void give_up(Rise& rise);
  void add_resident(Extent& extent);
  void remove_resident(Extent& extent);
  void count(const Extent& extent);
  void discount(const Extent& extent);

  Backend& backend_;
  MemoryPool& host_pool_;
  BlockStore* store_;
  std::vector<Level> levels_;                   // the fastest first
  std::set<Extent*, LeastValueFirst> on_disk_;  // and in no memory
  std::vector<Rise> rises_;                     // under way
  std::array<uint64_t, kTierCount> extent_count_{};
  std::array<uint64_t, kTierCount> original_bytes_{};
  uint64_t demoted_bytes_ = 0, risen_bytes_ = 0;
  uint64_t move_count_ = 0;
  uint64_t next_serial_ = 0;
};

}  // namespace vkv
