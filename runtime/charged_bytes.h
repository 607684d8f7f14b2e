// charged_bytes.h: small shared metadata that counts against a budget.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <string_view>
#include <utility>

#include "runtime/base/block_format.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

// 64-byte aligned bytes in the engine's memory. Immutable once shared.
class ChargedBytes {
 public:
  // On the heap, zero at first. Errors: kOutOfMemory.
  static Result<std::shared_ptr<ChargedBytes>> make(MemoryPool& pool, size_t byte_count,
                                                    std::string_view purpose) {
    VKV_TRY_ASSIGN(charge, MemoryCharge::make(pool, byte_count, purpose));
    return std::shared_ptr<ChargedBytes>(new ChargedBytes(std::move(charge), byte_count));
  }
  // The first bytes of a buffer.
  static std::shared_ptr<ChargedBytes> of(MemoryBuffer buffer, size_t byte_count) {
    return std::shared_ptr<ChargedBytes>(new ChargedBytes(std::move(buffer), byte_count));
  }
  ChargedBytes(const ChargedBytes&) = delete;
  ChargedBytes& operator=(const ChargedBytes&) = delete;

  std::byte* data() const { return buffer_ ? buffer_.data() : bytes_.get(); }
  size_t byte_count() const { return byte_count_; }

 private:
  struct AlignedDelete {
    void operator()(std::byte* bytes) const {
      ::operator delete[](bytes, std::align_val_t{kRecordAlignment});
    }
  };

  ChargedBytes(MemoryCharge charge, size_t byte_count)
      : byte_count_(byte_count),
        charge_(std::move(charge)),
        bytes_(new (std::align_val_t{kRecordAlignment}) std::byte[byte_count]{}) {}
  ChargedBytes(MemoryBuffer buffer, size_t byte_count)
      : byte_count_(byte_count), buffer_(std::move(buffer)) {}

  size_t byte_count_;
  MemoryCharge charge_;  // of bytes_
  std::unique_ptr<std::byte[], AlignedDelete> bytes_;
  MemoryBuffer buffer_;  // or this
};

}  // namespace vkv
