// Superblocks, indices and states of any bytes: reading them ends in values that hold together or
// in a refusal, and stays within the bytes. VKV_SEED repeats a run, VKV_STEPS or VKV_SECONDS makes
// it longer. SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <span>
#include <vector>

#include "runtime/saved_state.h"
#include "tests/environment_number.h"
#include "tests/store_driver.h"
#include "tests/temporary_directory.h"
#include "transfer/block_store.h"
#include "transfer/crc32c.h"
#include "transfer/store_format.h"
#include "transfer/store_index.h"

namespace vkv {
namespace {

std::mt19937_64 random_of_run(const char* what) {
  const uint64_t seed = number_from_environment("VKV_SEED", 20241013);
  std::printf("%s: VKV_SEED=%llu\n", what, static_cast<unsigned long long>(seed));
  return std::mt19937_64(seed);
}

// So many steps, or so many seconds.
template <class Step>
void repeat(uint64_t steps_otherwise, const Step& step) {
  const uint64_t seconds = number_from_environment("VKV_SECONDS", 0);
  const uint64_t steps =
      seconds > 0 ? UINT64_MAX : number_from_environment("VKV_STEPS", steps_otherwise);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  uint64_t done = 0;
  for (; done < steps && !testing::Test::HasFailure(); ++done) {
    if (seconds > 0 && std::chrono::steady_clock::now() >= end) break;
    step();
  }
  std::printf("%llu steps\n", static_cast<unsigned long long>(done));
}

// Changes a few bytes; nasty numbers more often than others.
void spoil(std::span<std::byte> bytes, std::mt19937_64& random) {
  constexpr uint64_t kNasty[] = {0,          1,          0xff, 0xffff, 0xffffffff, 0x7fffffff,
                                 0x80000000, UINT64_MAX, 4095, 4096,   1ull << 44, 1ull << 63};
  for (uint64_t count = 1 + random() % 4; count > 0 && !bytes.empty(); --count) {
    const size_t at = random() % bytes.size();
    const uint64_t value = random() % 2 == 0 ? kNasty[random() % std::size(kNasty)] : random();
    const size_t width = std::min<size_t>(bytes.size() - at, size_t{1} << random() % 4);
    std::memcpy(bytes.data() + at, &value, width);
  }
}

StoreId some_id(std::mt19937_64& random) {
  StoreId id;
  for (uint8_t& byte : id) byte = static_cast<uint8_t>(random());
  return id;
}

TEST(superblock_fuzz, any_page_is_a_superblock_of_the_same_bytes_or_none) {
  std::mt19937_64 random = random_of_run("superblock");
  repeat(20000, [&] {
    const Superblock block{.process = static_cast<uint32_t>(random()),
                           .store = some_id(random),
                           .sequence = random(),
                           .epoch = random(),
                           .index_offset = random() % 2 * 8192,
                           .commit = random(),
                           .is_temporary = random() % 2 == 0,
                           .is_closed = random() % 2 == 0};
    StorePage page;
    encode(block, page);
    ASSERT_EQ(decode_superblock(page), block);
    // Near the fields, mostly; the checksum is made right again, mostly.
    spoil(random() % 2 == 0 ? std::span(page).first(80) : std::span<std::byte>(page), random);
    if (random() % 4 != 0) {
      const uint32_t sum = crc32c(std::span<const std::byte>(page).first(kPageBytes - 4));
      std::memcpy(page.data() + kPageBytes - 4, &sum, sizeof(sum));
    }
    const auto decoded = decode_superblock(page);
    if (decoded) {
      StorePage again;
      encode(*decoded, again);
      ASSERT_EQ(page, again);
    }
    (void)guess_superblock(std::span<const std::byte>(page).first(random() % kPageBytes));
  });
}

// An index in memory.
struct Chain {
  std::vector<std::byte> bytes = std::vector<std::byte>(4 << 20);
  Superblock superblock;
  IndexTail tail;
  uint64_t end = kExtentsBegin;

  void commit(const IndexBatch& batch) {
    std::vector<uint64_t> segments;
    for (uint64_t i = segments_needed(tail, std::max<uint64_t>(1, page_count(batch))); i > 0; --i) {
      segments.push_back(end);
      end += kIndexSegmentBytes;
    }
    for (const PageWrite& write : append_pages(batch, segments, tail))
      std::memcpy(bytes.data() + write.file_offset, write.page.data(), kPageBytes);
  }
  Result<LoadedIndex> load() const {
    return load_index(superblock, [&](uint64_t offset, std::span<std::byte> target) -> Status {
      if (offset > bytes.size() || target.size() > bytes.size() - offset)
        return {Code::kDataLoss, "the end"};
      std::memcpy(target.data(), bytes.data() + offset, target.size());
      return {};
    });
  }
};

StoredSequence some_sequence(uint64_t number, std::mt19937_64& random) {
  StoredSequence sequence{.key = key_of(number), .token_count = 5};
  for (uint64_t i = random() % 100; i > 0; --i)
    sequence.extents.push_back({.kind = static_cast<StoredKind>(1 + random() % 4),
                                .file_offset = kExtentsBegin + random() % 1000 * 4096,
                                .byte_count = static_cast<uint32_t>(1 + random() % 9) * 4096,
                                .crc32c = static_cast<uint32_t>(random())});
  return sequence;
}

// Makes the checksum of a page right, as somebody would who means it.
void sign(std::span<std::byte> page) {
  const uint32_t sum = crc32c(page.subspan(12));
  std::memcpy(page.data() + 8, &sum, sizeof(sum));
}

TEST(index_fuzz, any_index_loads_up_to_what_cannot_be_or_is_damage) {
  std::mt19937_64 random = random_of_run("index");
  Chain chain;
  std::vector<uint64_t> there;
  chain.superblock = {
      .store = some_id(random), .epoch = 1, .index_offset = kExtentsBegin, .commit = 1};
  chain.tail.next = {.store = chain.superblock.store, .epoch = 1};
  for (uint64_t number = 0; number < 90; ++number) {
    IndexBatch batch{.erased = {}, .saved = {some_sequence(number, random)}};
    if (there.size() > 20) {
      batch.erased.push_back(key_of(there.front()));
      there.erase(there.begin());
    }
    there.push_back(number);
    chain.commit(batch);
  }
  const LoadedIndex whole = std::move(chain.load().value());
  ASSERT_TRUE(whole.damage.ok());
  ASSERT_EQ(whole.sequences.size(), there.size());
  const uint64_t pages = chain.tail.next.number;

  repeat(1500, [&] {
    std::vector<std::pair<uint64_t, StorePage>> before;
    for (uint64_t count = 1 + random() % 3; count > 0; --count) {
      const uint64_t number = random() % pages;
      const uint64_t at = chain.tail.segments[number / kIndexSegmentPages] +
                          number % kIndexSegmentPages * kPageBytes;
      const std::span<std::byte> page(chain.bytes.data() + at, kPageBytes);
      before.emplace_back(at, StorePage());
      std::memcpy(before.back().second.data(), page.data(), kPageBytes);
      spoil(random() % 2 == 0 ? page.subspan(12, 180) : page, random);
      if (random() % 4 != 0) sign(page);
    }
    const Result<LoadedIndex> loaded = chain.load();
    ASSERT_TRUE(loaded.ok());
    const LoadedIndex& index = loaded.value();
    EXPECT_LE(index.tail.next.number, pages);
    for (const auto& [key, sequence] : index.sequences) {
      EXPECT_EQ(key, sequence.key);
      for (const ExtentDescriptor& extent : sequence.extents) {
        EXPECT_GT(extent.byte_count, 0u);
        EXPECT_GE(extent.file_offset, kExtentsBegin);
      }
    }
    while (!before.empty()) {
      std::memcpy(chain.bytes.data() + before.back().first, before.back().second.data(),
                  kPageBytes);
      before.pop_back();
    }
  });
  EXPECT_EQ(chain.load().value().sequences, whole.sequences);
}

// The same through a file: what opens can be listed and read, and no byte is wrong.
TEST(store_file_fuzz, any_file_is_refused_or_gives_what_was_saved) {
  std::mt19937_64 random = random_of_run("store file");
  const TemporaryDirectory directory;
  const std::string path = directory / "kv.store", other = directory / "other.store";
  {
    const auto store = open_kept(path, 8 << 20);
    for (uint64_t number = 1; number <= 8; ++number)
      ASSERT_TRUE(save(*store.value(), number, 16384).ok());
  }
  std::vector<char> bytes(std::filesystem::file_size(path));
  std::ifstream(path, std::ios::binary)
      .read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  const uint64_t index = BlockStore::open({.path = path, .use = StoreUse::kReadOnly})
                             .value()
                             ->superblock()
                             .index_offset;

  repeat(60, [&] {
    std::vector<char> bad = bytes;
    const auto all = std::as_writable_bytes(std::span(bad));
    for (uint64_t count = 1 + random() % 2; count > 0; --count) {
      const uint64_t number = random() % 12;
      const auto page = all.subspan(
          number < 9 ? index + number * kPageBytes : random() % (bytes.size() / 4096) * 4096,
          kPageBytes);
      spoil(random() % 2 == 0 ? page.subspan(12, 180) : page, random);
      if (number < 9 && random() % 4 != 0) sign(page);
    }
    if (random() % 10 == 0) bad.resize(random() % bad.size());
    std::ofstream(other, std::ios::binary)
        .write(bad.data(), static_cast<std::streamsize>(bad.size()));
    for (const StoreUse use : {StoreUse::kReadOnly, StoreUse::kKeep}) {
      auto store = BlockStore::open({.path = other, .use = use, .bytes_max = 8 << 20});
      if (!store.ok()) continue;
      for (const StoredSequence& sequence : store.value()->committed()) {
        const CommittedSequence held = store.value()->hold(sequence.key).value();
        for (const LabelledExtent& extent : held.extents) {
          MemoryBuffer target =
              std::move(test_memory().allocate(extent.extent.byte_count, "a test").value());
          (void)store.value()->wait(
              store.value()->submit_read(extent.extent, target.bytes()).value());
        }
        release_all(*store.value(), held.extents);
        // What has its own number and no other checksum is what was saved under it.
        const uint64_t number = number_of(sequence.key);
        if (number < 1 || number > 8 || sequence.key != key_of(number)) continue;
        const Status status = compare(*store.value(), number, 16384);
        EXPECT_TRUE(status.ok() || status.code() == Code::kDataLoss ||
                    status.message().find("other") != std::string::npos ||
                    status.message().find("size") != std::string::npos)
            << status.message();
      }
    }
    std::filesystem::remove(other);
  });
}

CacheOptions some_options() {
  CacheOptions options{.shape = {.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 64}};
  options.precision = precision_preset("onebit").value();
  options.precision.layers.push_back({.layer = 1});
  return options;
}

SavedState some_state(const KvShape& shape, std::mt19937_64& random) {
  SavedState state;
  const size_t row = static_cast<size_t>(shape.kv_heads * shape.head_dim);
  const uint32_t open = random() % 5, sealed = 256 + 77, token_count = open + sealed;
  state.roles.resize(token_count, Role::kVisual);
  for (int i = 0; i < shape.layers; ++i) {
    SavedLayer layer{.mean = std::vector<float>(row, 0.5f)};
    for (uint32_t t = 0; t < open; ++t) layer.positions.push_back(sealed + t);
    layer.classes.resize(open);
    layer.k.resize(open * row, 7);
    layer.v.resize(open * row, 9);
    const bool shared = random() % 2 == 0, keeps = random() % 2 == 0;
    SavedExtent extent;
    uint64_t offset = 0;
    for (const uint16_t tokens : {256, 77}) {
      Block block{.codecs = {Codec::kI1, Codec::kI1}, .centred = true, .token_count = tokens};
      const BlockLayout layout = block_layout(shape, block.codecs, tokens, shared);
      block.record_bytes = static_cast<uint32_t>(layout.record_bytes());
      block.record_offset = offset;
      block.role_token_count[1] = tokens;
      offset += layout.record_bytes();
      if (shared && layer.headers.empty()) layer.headers.emplace_back(layout.headers_bytes());
      extent.blocks.push_back(block);
    }
    if (shared) extent.headers = 0;
    if (random() % 2 == 0) extent.live.assign(8 + 3, 0x1fff);
    layer.extents.push_back(extent);
    if (keeps) {
      layer.originals.push_back(
          {.index = 1, .kind = ExtentKind::kOriginal, .original_count = sealed});
      layer.original_v_sum.resize(row);
    }
    state.layers.push_back(std::move(layer));
  }
  return state;
}

TEST(state_fuzz, any_state_fits_its_extents_or_is_refused) {
  std::mt19937_64 random = random_of_run("state");
  const CacheOptions options = some_options();
  const uint64_t extent_bytes[] = {65536, 2 * 2 * 333 * 128};
  repeat(3000, [&] {
    const SavedState state = some_state(options.shape, random);
    std::vector<std::byte> bytes = encode_state(options, state);
    const Result<SavedState> same = decode_state(options, bytes, extent_bytes);
    ASSERT_TRUE(same.ok()) << same.status().message();
    ASSERT_EQ(encode_state(options, same.value()), bytes);

    switch (random() % 3) {
      case 0:
        spoil(bytes, random);
        break;
      case 1:  // where counts are
        spoil(std::span(bytes).last(std::min<size_t>(bytes.size(), 600)), random);
        break;
      default:
        bytes.resize(random() % bytes.size());
    }
    const Result<SavedState> decoded = decode_state(options, bytes, extent_bytes);
    if (!decoded.ok()) return;
    for (const SavedLayer& layer : decoded.value().layers) {
      size_t tokens = layer.positions.size();
      for (const SavedExtent& extent : layer.extents) {
        ASSERT_LT(extent.index, 2u);
        for (const Block& block : extent.blocks) {
          ASSERT_LE(block.record_offset + block.record_bytes, extent_bytes[extent.index]);
          tokens += block.token_count;
        }
      }
      ASSERT_EQ(tokens, decoded.value().roles.size());
    }
  });
}

}  // namespace
}  // namespace vkv
