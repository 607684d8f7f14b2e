// fault_engine.h: what a disk may do to a store: fail, flip bits, be slow, lose power.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "transfer/io_engine.h"
#include "transfer/memory_pool.h"

namespace vkv {

// Operations are counted from 1 since the engine was made. 0: never.
struct Faults {
  // Writes stay in the disk's own memory until a sync.
  bool is_volatile = false;
  // Then the disk loses what is in that memory, in part: any of its writes, any sectors of each.
  uint64_t power_failure_at = 0;

  uint64_t read_errors_from = 0, write_errors_from = 0, sync_errors_from = 0;
  int error = EIO;
  bool flips_bits = false;  // one in every read
  std::chrono::milliseconds delay{0};

  uint64_t seed = 1;
  // What happened.
  uint64_t operation_count = 0;
  bool has_no_power = false;
};

// Does everything at once, one operation after another. Thread-safe.
class FaultEngine final : public IoEngine {
 public:
  FaultEngine(std::unique_ptr<IoEngine> disk, std::shared_ptr<Faults> faults)
      : disk_(std::move(disk)), faults_(std::move(faults)), random_(faults_->seed) {}

  void submit(IoRequest& request) override {
    const std::lock_guard lock(mutex_);
    if (faults_->delay.count() > 0) std::this_thread::sleep_for(faults_->delay);
    if (++faults_->operation_count == faults_->power_failure_at) lose_power();
    request.error = error_of(request);
    if (request.error == 0) carry_out(request);
    request.over = true;
    one_is_over_.notify_all();
  }
  void wait(IoRequest& request) override {
    std::unique_lock lock(mutex_);
    one_is_over_.wait(lock, [&] { return request.over; });
  }
  bool done(IoRequest& request) override {
    const std::lock_guard lock(mutex_);
    return request.over;
  }
  bool register_memory(std::span<const std::span<std::byte>>) override { return false; }
  std::string_view name() const override { return disk_->name(); }

 private:
  struct Write {
    uint64_t offset = 0;
    std::vector<std::byte> bytes;
  };

  int error_of(const IoRequest& request) const {
    if (faults_->has_no_power) return EIO;
    const uint64_t from = request.kind == IoRequest::Kind::kRead    ? faults_->read_errors_from
                          : request.kind == IoRequest::Kind::kWrite ? faults_->write_errors_from
                                                                    : faults_->sync_errors_from;
    return from > 0 && faults_->operation_count >= from ? faults_->error : 0;
  }

  void carry_out(IoRequest& request) {
    if (request.kind == IoRequest::Kind::kWrite && faults_->is_volatile) {
      pending_.push_back({request.file_offset, {request.data, request.data + request.byte_count}});
      request.bytes_done = request.byte_count;
      return;
    }
    if (request.kind == IoRequest::Kind::kSync) {
      for (const Write& write : pending_) write_through(write.offset, write.bytes);
      pending_.clear();
    }
    disk_->submit(request);
    disk_->wait(request);
    if (request.kind != IoRequest::Kind::kRead) return;
    for (const Write& write : pending_) overlay(write, request);
    if (faults_->flips_bits && request.bytes_done > 0)
      request.data[random_() % request.bytes_done] ^= std::byte{1};
  }

  static void overlay(const Write& write, IoRequest& request) {
    const uint64_t begin = std::max(write.offset, request.file_offset);
    const uint64_t end =
        std::min(write.offset + write.bytes.size(), request.file_offset + request.bytes_done);
    if (begin >= end) return;
    std::memcpy(request.data + (begin - request.file_offset),
                write.bytes.data() + (begin - write.offset), end - begin);
  }

  void lose_power() {
    constexpr uint64_t kSector = 512;
    std::shuffle(pending_.begin(), pending_.end(), random_);
    for (const Write& write : pending_) {
      const uint64_t how = random_() % 3;  // lost, cut, or whole
      if (how == 0) continue;
      // Pages are written whole here: one of which some sectors are lost is made up from the disk.
      std::vector<std::byte> bytes = write.bytes;
      std::vector<std::byte> old = read_through(write.offset, bytes.size());
      for (uint64_t at = 0; how == 1 && at < bytes.size(); at += kSector)
        if (random_() % 2 == 0) std::memcpy(bytes.data() + at, old.data() + at, kSector);
      write_through(write.offset, bytes);
    }
    pending_.clear();
    faults_->has_no_power = true;
  }

  std::vector<std::byte> read_through(uint64_t offset, uint64_t byte_count) {
    std::vector<std::byte> bytes(byte_count);
    MemoryBuffer buffer = std::move(memory_.allocate(byte_count, "a test").value());
    std::memset(buffer.data(), 0, byte_count);
    IoRequest read{.file_offset = offset, .data = buffer.data(), .byte_count = byte_count};
    disk_->submit(read);
    disk_->wait(read);
    std::memcpy(bytes.data(), buffer.data(), byte_count);
    return bytes;
  }

  void write_through(uint64_t offset, const std::vector<std::byte>& bytes) {
    MemoryBuffer buffer = std::move(memory_.allocate(bytes.size(), "a test").value());
    std::memcpy(buffer.data(), bytes.data(), bytes.size());
    IoRequest write{.kind = IoRequest::Kind::kWrite,
                    .file_offset = offset,
                    .data = buffer.data(),
                    .byte_count = bytes.size()};
    disk_->submit(write);
    disk_->wait(write);
    VKV_CHECK(write.error == 0 && write.bytes_done == bytes.size());
  }

  const std::unique_ptr<IoEngine> disk_;
  const std::shared_ptr<Faults> faults_;
  std::mutex mutex_;
  std::condition_variable one_is_over_;
  std::mt19937_64 random_;
  std::vector<Write> pending_;
  MemoryPool memory_{uint64_t{1} << 30};
};

}  // namespace vkv
