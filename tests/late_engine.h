// late_engine.h: plays a GPU on the CPU: memory of its own, and everything done as late as may be.
// SPDX-License-Identifier: Apache-2.0
//
// What a cache queues here runs when somebody waits for it, and not before: who reads or writes
// memory behind the stream's back, a disk or the host, is then sure to meet it. Memory that is
// neither the engine's nor pinned is looked at when the call is made, as CUDA does.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/backend.h"
#include "runtime/base/memory_source.h"
#include "vkv/status.h"

namespace vkv {

// Which memory a stream reads in its own time.
class LateMemory {
 public:
  bool holds(const void* pointer) const {
    const auto* const at = static_cast<const std::byte*>(pointer);
    auto range = ranges_.upper_bound(at);
    return range != ranges_.begin() && at < (--range)->first + range->second;
  }
  void add(const std::byte* data, uint64_t byte_count) { ranges_[data] = byte_count; }
  void remove(const std::byte* data) { ranges_.erase(data); }

 private:
  std::map<const std::byte*, uint64_t> ranges_;
};

// Poisoned when it is new.
class LateSource final : public MemorySource {
 public:
  explicit LateSource(std::shared_ptr<LateMemory> memory) : memory_(std::move(memory)) {}

  Result<std::byte*> map(uint64_t byte_count) override {
    auto* const data = static_cast<std::byte*>(std::aligned_alloc(4096, byte_count));
    std::memset(data, 0xff, byte_count);
    memory_->add(data, byte_count);
    return data;
  }
  void unmap(std::byte* data, uint64_t) override {
    memory_->remove(data);
    std::free(data);
  }

 private:
  const std::shared_ptr<LateMemory> memory_;
};

class LateEngine final : public Backend {
 public:
  LateEngine(std::unique_ptr<Backend> cpu, std::shared_ptr<LateMemory> memory, bool waits)
      : cpu_(std::move(cpu)), memory_(std::move(memory)), waits_(waits) {}

  std::string_view name() const override { return "late"; }
  bool cuts_attention() const override { return true; }

  Status attend(std::span<const AttendItem> items) override {
    for (const AttendItem& item : items) {
      std::vector<BlockView> blocks(item.blocks.begin(), item.blocks.end());
      queue([this, own = item, blocks = std::move(blocks)]() mutable {
        own.blocks = blocks;
        return cpu_->attend({&own, 1});
      });
    }
    return {};
  }
  Status merge(std::span<const MergeItem> items) override {
    return now([&] { return cpu_->merge(items); });
  }
  Status encode(std::span<const EncodeItem> items) override {
    for (const EncodeItem& item : items) {
      std::vector<uint32_t> rows(item.rows.begin(), item.rows.end());
      queue([this, own = item, rows = std::move(rows)]() mutable {
        own.rows = rows;
        return cpu_->encode({&own, 1});
      });
    }
    return {};
  }
  Status encode_headers(const EncodeItem& item) override {
    return now([&] { return cpu_->encode_headers(item); });
  }
  Status mean_key(const KvShape& shape, const OpenTokens& source, std::span<const uint32_t> rows,
                  float* mean) override {
    return now([&] { return cpu_->mean_key(shape, source, rows, mean); });
  }
  Status saliency(const SaliencyItem& item) override {
    return now([&] { return cpu_->saliency(item); });
  }
  Status squared_distances(const KvShape& shape, const OpenTokens& source,
                           std::span<const uint32_t> rows, const float* mean,
                           std::span<float> distances) override {
    return now([&] { return cpu_->squared_distances(shape, source, rows, mean, distances); });
  }
  Result<std::optional<BadValue>> append(std::span<const AppendItem> items) override {
    for (const AppendItem& item : items)
      queue([this, item] { return cpu_->append({&item, 1}).status(); });
    return std::optional<BadValue>();
  }
  Status to_float(ElementType element, const void* source, float* target, size_t count) override {
    queue([=, this] { return cpu_->to_float(element, source, target, count); });
    return {};
  }
  Status from_float(ElementType element, const float* source, void* target, size_t count) override {
    queue([=, this] { return cpu_->from_float(element, source, target, count); });
    return {};
  }
  Status keep_rows(uint16_t* rows, size_t row_values, std::span<const uint32_t> kept) override {
    queue([=, this, kept = std::vector<uint32_t>(kept.begin(), kept.end())] {
      return cpu_->keep_rows(rows, row_values, kept);
    });
    return {};
  }
  Status copy(void* target, const void* source, size_t byte_count) override {
    if (byte_count == 0) return {};
    queue([=] {
      std::memcpy(target, source, byte_count);
      return Status();
    });
    return memory_->holds(target) && memory_->holds(source) ? Status() : run_all();
  }
  Status zero(std::span<std::byte> bytes) override {
    queue([=] {
      std::fill(bytes.begin(), bytes.end(), std::byte{0});
      return Status();
    });
    return {};
  }

  Result<std::vector<LateError>> late_errors() override {
    VKV_TRY(run_all());
    return std::vector<LateError>();
  }
  Result<uint64_t> mark() override { return queued_; }
  Status reach(uint64_t mark) override {
    while (done_ < mark) VKV_TRY(run_one());
    return {};
  }
  bool is_reached(uint64_t mark) override { return done_ >= mark; }
  Status quiesce() override { return run_all(); }
  Status finish() override { return waits_ ? run_all() : Status(); }

 private:
  void queue(std::function<Status()> work) {
    work_.push_back(std::move(work));
    ++queued_;
  }
  template <class Work>
  Status now(const Work& work) {
    VKV_TRY(run_all());
    return work();
  }
  Status run_one() {
    const std::function<Status()> work = std::move(work_.front());
    work_.pop_front();
    ++done_;
    return work();
  }
  Status run_all() { return reach(queued_); }

  const std::unique_ptr<Backend> cpu_;
  const std::shared_ptr<LateMemory> memory_;
  const bool waits_;
  std::deque<std::function<Status()>> work_;
  uint64_t queued_ = 0, done_ = 0;
};

}  // namespace vkv
