// memory_pool.cpp: memory under a hard budget, with a small stock of freed pieces.
// SPDX-License-Identifier: Apache-2.0
#include "transfer/memory_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/base/block_format.h"

namespace vkv {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

// More than any machine has: no budget is larger, so that sums do not wrap.
constexpr uint64_t kBudgetBytesMax = uint64_t{1} << 62;

// Freed pieces kept for the next allocation of the same size, so that the staging buffers of reads
// do not fault their pages in anew each time: 1 MiB took 380 us to map, touch and unmap on a 2-core
// virtual machine whose disk reads it in 600. Small: what the pool keeps, others cannot use.
constexpr uint64_t kStockBytesMax = uint64_t{32} << 20;

std::string in_bytes(uint64_t byte_count) { return std::to_string(byte_count) + " bytes"; }

std::string_view lower_name(Tier tier) { return tier == Tier::kHbm ? "hbm" : "dram"; }
std::string_view upper_name(Tier tier) { return tier == Tier::kHbm ? "HBM" : "DRAM"; }

class AnonymousMemory final : public MemorySource {
 public:
  Result<std::byte*> map(uint64_t byte_count) override {
    void* const mapped =
        mmap(nullptr, byte_count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
      return Status(Code::kOutOfMemory, "the system refuses " + in_bytes(byte_count) +
                                            " (mmap: " + std::system_category().message(errno) +
                                            "); lower the DRAM budget");
    // Only advice: where huge pages are switched off, small ones do.
    if (byte_count >= kHugePageBytes) (void)madvise(mapped, byte_count, MADV_HUGEPAGE);
    return static_cast<std::byte*>(mapped);
  }

  void unmap(std::byte* data, uint64_t byte_count) override {
    VKV_CHECK(munmap(data, byte_count) == 0);
  }
};

}  // namespace

// Invariant: used_bytes + stock_bytes <= bytes_max, so that the stock never breaks the budget.
struct MemoryPool::State {
  const Tier tier;
  const uint64_t bytes_max;
  const uint64_t stock_bytes_max;
  const std::unique_ptr<MemorySource> source;

  mutable std::mutex mutex;
  uint64_t used_bytes = 0;  // buffers and charges
  uint64_t buffer_bytes = 0;
  uint64_t peak_bytes = 0;
  uint64_t stock_bytes = 0;
  std::map<uint64_t, std::vector<std::byte*>> stock;  // by size in bytes

  std::string words(uint64_t byte_count, std::string_view purpose) const {
    return std::string(lower_name(tier)) + " tier: " + in_bytes(byte_count) + " asked for " +
           std::string(purpose);
  }

  // Counts byte_count as used and makes room for it among the stock. Lock held.
  Status take(uint64_t byte_count, std::string_view purpose) {
    if (byte_count > bytes_max - used_bytes) {
      return {Code::kOutOfMemory, words(byte_count, purpose) + ", " + in_bytes(used_bytes) +
                                      " in use, the budget is " + in_bytes(bytes_max) +
                                      "; raise the " + std::string(upper_name(tier)) +
                                      " budget or use less"};
    }
    used_bytes += byte_count;
    peak_bytes = std::max(peak_bytes, used_bytes);
    trim_stock(bytes_max - used_bytes);
    return {};
  }

  // Gives stock back to the system, the largest pieces first. Lock held.
  void trim_stock(uint64_t kept_bytes_max) {
    while (stock_bytes > kept_bytes_max) {
      const auto largest = std::prev(stock.end());
      source->unmap(largest->second.back(), largest->first);
      stock_bytes -= largest->first;
      largest->second.pop_back();
      if (largest->second.empty()) stock.erase(largest);
    }
  }

  // A stocked piece of exactly this size, or nullptr. Lock held.
  std::byte* take_from_stock(uint64_t byte_count) {
    const auto found = stock.find(byte_count);
    if (found == stock.end()) return nullptr;
    std::byte* const data = found->second.back();
    found->second.pop_back();
    if (found->second.empty()) stock.erase(found);
    stock_bytes -= byte_count;
    return data;
  }
};

MemoryBuffer::~MemoryBuffer() {
  if (pool_ != nullptr) pool_->release(bytes_);
}

Tier MemoryBuffer::tier() const { return pool_->tier(); }

Result<MemoryCharge> MemoryCharge::make(MemoryPool& pool, uint64_t byte_count,
                                        std::string_view purpose) {
  VKV_TRY(pool.charge(byte_count, purpose));
  return MemoryCharge(&pool, byte_count);
}

MemoryCharge::~MemoryCharge() {
  if (pool_ != nullptr) pool_->discharge(byte_count_);
}

MemoryPool::MemoryPool(uint64_t bytes_max, std::unique_ptr<MemorySource> source)
    : state_(
          new State{.tier = Tier::kDram,
                    .bytes_max = std::min(bytes_max, kBudgetBytesMax),
                    .stock_bytes_max = kStockBytesMax,
                    .source = source ? std::move(source) : std::make_unique<AnonymousMemory>()}) {}

MemoryPool::MemoryPool(Tier tier, uint64_t bytes_max, std::unique_ptr<MemorySource> source)
    : state_(new State{.tier = tier,
                       .bytes_max = std::min(bytes_max, kBudgetBytesMax),
                       .stock_bytes_max = 0,  // the source has its own way with what is free
                       .source = std::move(source)}) {}

MemoryPool::~MemoryPool() {
  VKV_CHECK(state_->buffer_bytes == 0);  // a buffer outlived its pool
  state_->trim_stock(0);
}

Result<MemoryBuffer> MemoryPool::allocate(uint64_t byte_count, std::string_view purpose) {
  if (byte_count == 0) {
    return Status(Code::kInvalidArgument, state_->words(0, purpose));
  }
  if (byte_count <= state_->bytes_max) byte_count = round_up_bytes(byte_count, kExtentAlignment);

  // Under the lock too: mmap only writes down the mapping, the pages come with the first touch.
  const std::lock_guard lock(state_->mutex);
  std::byte* data = state_->take_from_stock(byte_count);
  // Cannot fail where there was a piece in stock: the budget had counted it.
  if (Status status = state_->take(byte_count, purpose); !status.ok()) return status;
  if (data == nullptr) {
    const Result<std::byte*> mapped = state_->source->map(byte_count);
    if (!mapped.ok()) {
      state_->used_bytes -= byte_count;
      if (mapped.status().code() != Code::kOutOfMemory) return mapped.status();
      return Status(Code::kOutOfMemory, state_->words(byte_count, purpose) +
                                            ", which the budget allows, but " +
                                            mapped.status().message());
    }
    data = mapped.value();
  }
  state_->buffer_bytes += byte_count;
  return MemoryBuffer(this, {data, byte_count});
}

Status MemoryPool::charge(uint64_t byte_count, std::string_view purpose) {
  const std::lock_guard lock(state_->mutex);
  return state_->take(byte_count, purpose);
}

void MemoryPool::discharge(uint64_t byte_count) {
  const std::lock_guard lock(state_->mutex);
  VKV_CHECK(byte_count <= state_->used_bytes - state_->buffer_bytes);
  state_->used_bytes -= byte_count;
}

void MemoryPool::release(std::span<std::byte> bytes) {
  const std::lock_guard lock(state_->mutex);
  state_->used_bytes -= bytes.size();
  state_->buffer_bytes -= bytes.size();
  if (bytes.size() > state_->stock_bytes_max)
    return state_->source->unmap(bytes.data(), bytes.size());
  state_->stock[bytes.size()].push_back(bytes.data());
  state_->stock_bytes += bytes.size();
  state_->trim_stock(std::min(state_->stock_bytes_max, state_->bytes_max - state_->used_bytes));
}

int MemoryPool::node_of(const std::byte* data) const { return state_->source->node_of(data); }

Tier MemoryPool::tier() const { return state_->tier; }

uint64_t MemoryPool::bytes_used() const {
  const std::lock_guard lock(state_->mutex);
  return state_->used_bytes;
}

uint64_t MemoryPool::bytes_peak() const {
  const std::lock_guard lock(state_->mutex);
  return state_->peak_bytes;
}

uint64_t MemoryPool::bytes_max() const { return state_->bytes_max; }

}  // namespace vkv
