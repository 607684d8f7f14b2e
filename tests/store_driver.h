// store_driver.h: sequences whose bytes follow from a number, written to a store and compared.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "transfer/block_store.h"
#include "transfer/memory_pool.h"
#include "vkv/status.h"

namespace vkv {

inline SequenceKey key_of(uint64_t number) {
  SequenceKey key;
  std::mt19937_64 random(number);
  for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

inline uint64_t number_of(const SequenceKey& key) {
  uint64_t number = 0;
  std::memcpy(&number, key.bytes.data(), sizeof(number));
  return number;
}

// Extents of a sequence: 1..5, of 4 KiB up to `bytes_max`.
inline std::vector<uint64_t> extent_sizes(uint64_t number, uint64_t bytes_max = 256 << 10) {
  std::mt19937_64 random(number * 31 + 7);
  std::vector<uint64_t> sizes(1 + random() % 5);
  for (uint64_t& size : sizes) size = (1 + random() % (bytes_max / 4096)) * 4096;
  return sizes;
}

inline void fill(std::span<std::byte> bytes, uint64_t number, uint64_t extent_index) {
  std::mt19937_64 random(number * 1000 + extent_index);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
}

inline MemoryPool& test_memory() {
  static MemoryPool pool(uint64_t{1} << 30);
  return pool;
}

// Reserves, writes and waits, one after another. What it got is released where it fails.
inline Result<std::vector<LabelledExtent>> write_extents(BlockStore& store, uint64_t number,
                                                         uint64_t bytes_max = 256 << 10) {
  std::vector<LabelledExtent> extents;
  const auto write_one = [&](uint64_t byte_count) -> Status {
    VKV_TRY_ASSIGN(buffer, test_memory().allocate(byte_count, "a test"));
    fill(buffer.bytes(), number, extents.size());
    VKV_TRY_ASSIGN(extent, store.reserve(byte_count));
    const ExtentLabel label{.kind = StoredKind::kLow,
                            .k_codec = Codec::kI4,
                            .v_codec = Codec::kI2,
                            .layer = static_cast<uint32_t>(extents.size()),
                            .block_count = 3,
                            .token_count = 300};
    extents.push_back({extent, label});
    VKV_TRY_ASSIGN(ticket, store.submit_write(extents.back().extent, buffer.bytes()));
    return store.wait(ticket);
  };
  for (const uint64_t byte_count : extent_sizes(number, bytes_max)) {
    const Status status = write_one(byte_count);
    if (status.ok()) continue;
    for (const LabelledExtent& extent : extents) store.release(extent.extent);
    return status;
  }
  return extents;
}

inline void release_all(BlockStore& store, std::span<const LabelledExtent> extents) {
  for (const LabelledExtent& extent : extents) store.release(extent.extent);
}

// Writes and commits the sequence of a number, and holds nothing of it.
inline Status save(BlockStore& store, uint64_t number, uint64_t bytes_max = 256 << 10) {
  VKV_TRY_ASSIGN(extents, write_extents(store, number, bytes_max));
  const Status status = store.commit({.key = key_of(number),
                                      .token_count = static_cast<uint32_t>(number),
                                      .generation = 5,
                                      .extents = extents});
  release_all(store, extents);
  return status;
}

// Reads the sequence of a number and compares every byte. Errors: those of the store;
// kInvalidArgument where the bytes are other ones and the store said nothing.
inline Status compare(BlockStore& store, uint64_t number, uint64_t bytes_max = 256 << 10) {
  VKV_TRY_ASSIGN(sequence, store.hold(key_of(number)));
  const auto wrong = [&](const std::string& what) {
    return Status(Code::kInvalidArgument, "sequence " + std::to_string(number) + ": " + what);
  };
  Status status;
  const std::vector<uint64_t> sizes = extent_sizes(number, bytes_max);
  if (sequence.extents.size() != sizes.size() || sequence.token_count != number)
    status = wrong("other extents");
  for (size_t i = 0; status.ok() && i < sizes.size(); ++i) {
    const StoreExtent& extent = sequence.extents[i].extent;
    if (extent.byte_count != sizes[i]) {
      status = wrong("extent of another size");
      break;
    }
    MemoryBuffer want = std::move(test_memory().allocate(sizes[i], "a test").value());
    MemoryBuffer got = std::move(test_memory().allocate(sizes[i], "a test").value());
    fill(want.bytes(), number, i);
    std::memset(got.data(), 0xff, sizes[i]);
    status = store.wait(store.submit_read(extent, got.bytes()).value());
    if (status.ok() && std::memcmp(want.data(), got.data(), sizes[i]) != 0)
      status = wrong("wrong bytes in extent " + std::to_string(i));
  }
  release_all(store, sequence.extents);
  return status;
}

inline Result<std::unique_ptr<BlockStore>> open_kept(const std::string& path,
                                                     uint64_t bytes_max = 64 << 20) {
  return BlockStore::open({.path = path, .use = StoreUse::kKeep, .bytes_max = bytes_max});
}

}  // namespace vkv
