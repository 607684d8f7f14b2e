// Blocks that are read ahead: attention over their copies gives the bits of attention over the
// blocks, and no copy is served when what it was made from has changed.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <memory>
#include <random>

#include "kernels/gpu_backend.h"
#include "tests/gpu_tokens.h"

namespace vkv {
namespace {

constexpr KvShape kShape{.layers = 1, .q_heads = 14, .kv_heads = 2, .head_dim = 128};
constexpr size_t kRowFloats = 132;  // of out, of lse, and what aligns the next to 16 bytes

class gpu_ahead : public testing::Test {
 protected:
  void SetUp() override {
    if (!gpu_exists()) GTEST_SKIP() << "no GPU";
    auto engine = make_gpu_engine({.shape = kShape});
    ASSERT_TRUE(engine.ok()) << engine.status().message();
    engine_ = std::move(engine.value().backend);
  }

  void give_room(size_t byte_count) {
    auto room = CudaArray<std::byte>::make(byte_count);
    ASSERT_TRUE(room.ok());
    room_ = std::move(room.value());
    ASSERT_EQ(cudaMemset(room_.data(), 0xff, byte_count), cudaSuccess);
    ASSERT_TRUE(engine_->give_ahead_room(room_.span()).ok());
    EXPECT_EQ(engine_->ahead_room(), byte_count);
  }

  // Records in pinned memory, one behind another as in an extent, or each on its own.
  std::vector<BlockView> place(const std::vector<Record>& records, bool adjacent) {
    size_t total = 0;
    for (const Record& record : records) total += record.layout.record_bytes();
    std::vector<BlockView> views;
    std::byte* next = nullptr;
    for (const Record& record : records) {
      const size_t bytes = record.layout.record_bytes();
      if (next == nullptr || !adjacent) {
        auto memory = CudaArray<std::byte>::make(adjacent ? total : bytes, CudaMemory::kPinned);
        EXPECT_TRUE(memory.ok());
        pinned_.push_back(std::move(memory.value()));
        next = pinned_.back().data();
      }
      std::memcpy(next, record.bytes.data(), bytes);
      BlockView view = record.view;
      view.headers = view.headers == nullptr ? nullptr : next;
      view.payload = next + record.layout.payload_offset();
      views.push_back(view);
      next += bytes;
    }
    return views;
  }

  std::vector<float> attend(const AttendItem& item, std::span<const BlockView> blocks) {
    AttendItem there = item;
    there.blocks = blocks;
    const size_t rows = static_cast<size_t>(item.q_len * kShape.q_heads);
    std::vector<float> got(rows * kRowFloats, -1.0f);
    GpuCopies results;
    float* const out = results.copy(got.data(), got.size());
    there.out = out;
    there.lse = out + rows * 128;
    const Status status = engine_->attend({&there, 1});
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(engine_->finish().ok());
    EXPECT_EQ(cudaMemcpy(got.data(), out, got.size() * sizeof(float), cudaMemcpyDefault),
              cudaSuccess);
    return got;
  }

  // adjacent: as they were placed.
  Result<uint64_t> read_ahead(int label, std::span<const BlockView> views, bool adjacent) {
    std::vector<std::span<const BlockView>> groups;
    if (adjacent) groups.push_back(views);
    for (size_t i = 0; i < views.size() && !adjacent; ++i) groups.push_back(views.subspan(i, 1));
    return engine_->read_ahead(label, kShape, groups);
  }

  size_t take(std::vector<BlockView>& views) {
    size_t taken = 0;
    for (BlockView& view : views) taken += engine_->take_ahead(view);
    return taken;
  }

  std::unique_ptr<Backend> engine_;
  CudaArray<std::byte> room_;
  std::list<CudaArray<std::byte>> pinned_;
};

TEST_F(gpu_ahead, copies_give_the_bits_of_their_blocks) {
  give_room(size_t{8} << 20);
  std::mt19937 random(5);
  const BlockOptions all[] = {{Codec::kF16, Codec::kF16},
                              {Codec::kI8, Codec::kI4},
                              {Codec::kI4, Codec::kI4},
                              {Codec::kI2, Codec::kI1},
                              {Codec::kI1, Codec::kI1}};
  GpuCopies inputs;
  for (const BlockOptions& codecs : all)
    for (const bool adjacent : {true, false})
      for (const int tokens : {1, 129, 1000, 2048}) {
        const Tokens made = random_tokens(kShape, tokens, 31, {.v_offset = 0.5});
        const std::vector<Record> records = encode_all(oracle(), made, tokens, 128, codecs);
        const std::vector<float> q = random_queries(kShape, 2, 32);
        AttendItem item = item_over(kShape, 2, q, {});
        item.q = inputs.copy(q.data(), q.size());
        const std::vector<BlockView> views = place(records, adjacent);
        const std::vector<float> want = attend(item, views);

        // Some of them, in the order in which they were given.
        std::vector<BlockView> some;
        for (const BlockView& view : views)
          if (random() % 3 > 0) some.push_back(view);
        ASSERT_TRUE(read_ahead(3, some, adjacent).ok());
        std::vector<BlockView> mixed = views;
        EXPECT_EQ(take(mixed), some.size());
        for (size_t i = 0; i < mixed.size(); ++i) {
          const bool here =
              mixed[i].payload >= room_.data() && mixed[i].payload < room_.data() + room_.size();
          EXPECT_EQ(here, mixed[i].payload != views[i].payload);
        }
        EXPECT_EQ(attend(item, mixed), want)
            << name(codecs.k_codec) << "/" << name(codecs.v_codec) << ", " << tokens;
        const auto timing = engine_->next_ahead_timing();
        EXPECT_EQ(timing.has_value(), !some.empty());
        if (!timing) continue;
        EXPECT_EQ(timing->label, 3);
        EXPECT_GT(timing->byte_count, 0u);
        EXPECT_GT(timing->copy_seconds, 0);
      }
}

TEST_F(gpu_ahead, what_is_changed_or_passed_over_is_read_where_it_lies) {
  give_room(size_t{4} << 20);
  const Tokens made = random_tokens(kShape, 512, 41), others = random_tokens(kShape, 512, 42);
  const BlockOptions codecs = {Codec::kI4, Codec::kI4};
  const std::vector<Record> records = encode_all(oracle(), made, 512, 128, codecs);
  const std::vector<Record> new_records = encode_all(oracle(), others, 512, 128, codecs);
  const std::vector<BlockView> views = place(records, true), new_views = place(new_records, true);
  const std::vector<float> q = random_queries(kShape, 1, 43);
  GpuCopies inputs;
  AttendItem item = item_over(kShape, 1, q, {});
  item.q = inputs.copy(q.data(), q.size());
  const std::vector<float> want = attend(item, views), new_want = attend(item, new_views);
  ASSERT_NE(want, new_want);

  // Out of order: what was passed over is not found.
  ASSERT_TRUE(read_ahead(0, views, true).ok());
  std::vector<BlockView> backwards(views.rbegin(), views.rend());
  EXPECT_EQ(take(backwards), 1u);

  // Others come to lie where the copies were made from, as when a sequence is erased.
  ASSERT_TRUE(read_ahead(0, views, true).ok());
  const size_t bytes = 4 * records[0].layout.record_bytes();
  auto* const place_of_views = const_cast<std::byte*>(views[0].headers);
  ASSERT_TRUE(engine_->copy(place_of_views, new_views[0].headers, bytes).ok());
  std::vector<BlockView> after = views;
  EXPECT_EQ(take(after), 0u);
  EXPECT_EQ(attend(item, after), new_want);

  // And again, from the start.
  ASSERT_TRUE(read_ahead(0, views, true).ok());
  after = views;
  EXPECT_EQ(take(after), 4u);
  EXPECT_EQ(attend(item, after), new_want);
}

TEST_F(gpu_ahead, no_more_than_there_is_room_for) {
  const Tokens made = random_tokens(kShape, 512, 51);
  const std::vector<Record> records =
      encode_all(oracle(), made, 512, 128, {Codec::kI8, Codec::kI8});
  const size_t bytes = records[0].layout.record_bytes();
  const std::vector<BlockView> views = place(records, false);
  std::vector<BlockView> none = views;
  EXPECT_EQ(engine_->ahead_room(), 0u);
  EXPECT_EQ(read_ahead(0, views, false).value(), 0u);
  EXPECT_EQ(take(none), 0u);
  for (const size_t count : {1, 3}) {
    give_room(count * round_up_bytes(bytes, 128));
    EXPECT_EQ(read_ahead(0, views, false).value(), count * bytes);
    std::vector<BlockView> some = views;
    EXPECT_EQ(take(some), count);
  }
  EXPECT_EQ(read_ahead(0, {}, false).value(), 0u);
}

// Many layers, without a wait of the host between them.
TEST_F(gpu_ahead, one_buffer_serves_layer_after_layer) {
  give_room(size_t{2} << 20);
  constexpr int kLayers = 6;
  GpuCopies inputs, results;
  std::vector<std::vector<Record>> records;
  std::vector<std::vector<BlockView>> views;
  std::vector<std::vector<float>> want;
  const std::vector<float> q = random_queries(kShape, 1, 63);
  AttendItem item = item_over(kShape, 1, q, {});
  item.q = inputs.copy(q.data(), q.size());
  for (int layer = 0; layer < kLayers; ++layer) {
    const Tokens made = random_tokens(kShape, 1500, 70 + static_cast<uint32_t>(layer));
    records.push_back(encode_all(oracle(), made, 1500, 128, {Codec::kI8, Codec::kI8}));
    views.push_back(place(records.back(), true));
    want.push_back(attend(item, views.back()));
  }
  const size_t floats = want[0].size();
  const std::vector<float> unset(floats * 40, -1.0f);
  float* const out = results.copy(unset.data(), unset.size());
  for (int call = 0; call < 40; ++call) {
    std::vector<BlockView> mine = views[static_cast<size_t>(call % kLayers)];
    EXPECT_EQ(take(mine), call == 0 ? 0u : mine.size());
    AttendItem there = item;
    there.blocks = mine;
    there.out = out + floats * static_cast<size_t>(call);
    there.lse = there.out + 14 * 128;
    ASSERT_TRUE(engine_->attend({&there, 1}).ok());
    ASSERT_TRUE(read_ahead(0, views[static_cast<size_t>((call + 1) % kLayers)], true).ok());
  }
  ASSERT_TRUE(engine_->finish().ok());
  std::vector<float> got(unset.size());
  ASSERT_EQ(cudaMemcpy(got.data(), out, got.size() * sizeof(float), cudaMemcpyDefault),
            cudaSuccess);
  for (int call = 0; call < 40; ++call)
    EXPECT_TRUE(std::equal(want[static_cast<size_t>(call % kLayers)].begin(),
                           want[static_cast<size_t>(call % kLayers)].end(),
                           got.begin() + static_cast<ptrdiff_t>(floats) * call))
        << call;
}

}  // namespace
}  // namespace vkv
