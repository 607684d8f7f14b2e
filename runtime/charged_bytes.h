// charged_bytes.h: small shared metadata on the heap that counts against the DRAM budget.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <string_view>

#include "runtime/base/block_format.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

// 64-byte aligned bytes, zero at first. Immutable once shared.
class ChargedBytes {
 public:
  // Errors: kOutOfMemory.
  static Result<std::shared_ptr<ChargedBytes>> make(MemoryPool& pool, size_t byte_count,
                                                    std::string_view purpose) {
    VKV_TRY(pool.charge(byte_count, purpose));
    return std::shared_ptr<ChargedBytes>(new ChargedBytes(pool, byte_count));
  }
  ~ChargedBytes() { pool_.discharge(byte_count_); }
  ChargedBytes(const ChargedBytes&) = delete;
  ChargedBytes& operator=(const ChargedBytes&) = delete;

  std::byte* data() const { return bytes_.get(); }
  size_t byte_count() const { return byte_count_; }

 private:
  struct AlignedDelete {
    void operator()(std::byte* bytes) const {
      ::operator delete[](bytes, std::align_val_t{kRecordAlignment});
    }
  };

  ChargedBytes(MemoryPool& pool, size_t byte_count)
      : pool_(pool),
        byte_count_(byte_count),
        bytes_(new (std::align_val_t{kRecordAlignment}) std::byte[byte_count]{}) {}

  MemoryPool& pool_;
  size_t byte_count_;
  std::unique_ptr<std::byte[], AlignedDelete> bytes_;
};

}  // namespace vkv
