// Records of any bytes: reading them ends in numbers or a refusal, and stays within their bytes.
// VKV_SEED repeats a run, VKV_STEPS makes it longer. SPDX-License-Identifier: Apache-2.0
//
// A record has no checksum of its own: the store checks one before the cache uses what it read. An
// engine computes what the bytes say. Where a header holds NaN or infinity, the output of its KV
// head is not a number; other heads are as they would have been.
#include <gtest/gtest.h>

#include <cstdio>

#include "cpu/decode.h"
#include "runtime/base/hadamard.h"
#include "tests/attend_comparison.h"
#include "tests/environment_number.h"

namespace vkv {
namespace {

class RecordFuzz {
 public:
  explicit RecordFuzz(uint64_t seed) : random_(seed) {}

  void step() {
    shape_ = {.layers = 1, .kv_heads = 2, .head_dim = 8 * pick(1, 32)};
    shape_.q_heads = 2 * pick(1, 4);
    view_ = {.k_codec = static_cast<Codec>(pick(0, 5)),
             .v_codec = static_cast<Codec>(pick(0, 5)),
             .centred = one_in(2),
             .k_rotated = one_in(4),
             .v_per_token = one_in(4),
             .token_count = pick(1, tokens_per_block(shape_.head_dim))};
    if (one_in(3)) shape_.head_dim = 8 << pick(0, 5);
    if (one_in(40)) view_.k_codec = static_cast<Codec>(pick(0, 255));
    if (one_in(40)) view_.token_count = pick(-3, 300);
    const bool legal = is_legal();
    const BlockLayout layout = legal ? block_layout(shape_, view_) : BlockLayout{};
    // Buffers of just the bytes there are: reading on shows under the address sanitizer.
    // What is to be refused has a few, so that it is not refused for having none.
    AlignedBytes headers(legal ? layout.headers_bytes() : 64);
    AlignedBytes payload(legal ? layout.payload_bytes() : 64);
    view_.headers = headers.byte_count() > 0 ? headers.data() : nullptr;
    view_.payload = payload.data();
    for (std::byte& byte : payload.span()) byte = static_cast<std::byte>(random_());
    finite_halves(payload.span());
    if (!legal) return expect_refused();

    fill_with_sane_halves(headers.span());
    const AttendItem item = make_item();
    const Partial sane = attend(engine(), item), formula = attend(oracle(), item);
    EXPECT_LE(difference(sane, formula).out, 1e-3) << words();

    // Then the header of head 0 is anything at all.
    if (layout.head_header == 0) return;
    spoil(headers.span().first(layout.head_header));
    for (Backend* backend : {&engine(), &oracle()}) {
      const Partial spoiled = attend(*backend, item);
      const Partial& before = backend == &engine() ? sane : formula;
      const size_t half = sane.lse.size() / 2;  // one query: the heads of KV head 0 come first
      EXPECT_EQ(std::memcmp(&spoiled.lse[half], &before.lse[half], half * sizeof(float)), 0)
          << words();
      EXPECT_EQ(
          std::memcmp(&spoiled.out[half * shape_.head_dim], &before.out[half * shape_.head_dim],
                      half * shape_.head_dim * sizeof(float)),
          0)
          << words();
    }
    std::vector<float> k(static_cast<size_t>(view_.token_count) * shape_.head_dim), v(k.size());
    decode_head(shape_, view_, 0, view_.centred ? mean_.data() : nullptr, k.data(), v.data());
  }

 private:
  int pick(int least, int most) {
    return least + static_cast<int>(random_() % static_cast<uint64_t>(most - least + 1));
  }
  bool one_in(int count) { return pick(1, count) == 1; }

  bool is_legal() const {
    const int k_codec = static_cast<int>(view_.k_codec), v_codec = static_cast<int>(view_.v_codec);
    if (k_codec > 5 || v_codec > 5) return false;
    if (view_.token_count < 1 || view_.token_count > tokens_per_block(shape_.head_dim))
      return false;
    if (view_.k_rotated && (!view_.centred || bits_of(view_.k_codec) > 2)) return false;
    if (view_.k_rotated && !is_power_of_two(shape_.head_dim)) return false;
    return !(view_.v_per_token && is_16_bit(view_.v_codec));
  }

  AttendItem make_item() {
    q_ = random_queries(shape_, 1, static_cast<uint32_t>(random_()));
    mean_.assign(static_cast<size_t>(2 * shape_.head_dim), 0.5f);
    AttendItem item = item_over(shape_, 1, q_, {&view_, 1});
    item.k_mean = mean_.data();
    return item;
  }

  void expect_refused() {
    AttendItem item = make_item();
    std::vector<float> out(q_.size()), lse(static_cast<size_t>(shape_.q_heads));
    item.out = out.data();
    item.lse = lse.data();
    for (Backend* backend : {&engine(), &oracle()})
      EXPECT_FALSE(backend->attend({&item, 1}).ok()) << words();
  }

  // fp16 or bf16 of a size that scores stay small, where the payload is 16 bit.
  void finite_halves(std::span<std::byte> payload) {
    if (!is_16_bit(view_.k_codec) && !is_16_bit(view_.v_codec)) return;
    for (size_t i = 1; i < payload.size(); i += 2)
      payload[i] = (payload[i] & std::byte{0x80}) | std::byte{0x38};
  }

  void fill_with_sane_halves(std::span<std::byte> headers) {
    auto* halves = reinterpret_cast<uint16_t*>(headers.data());
    for (size_t i = 0; i < headers.size() / 2; ++i)
      halves[i] = half_from_float(static_cast<float>(pick(-100, 100)) * 1e-4f);
  }

  void spoil(std::span<std::byte> header) {
    auto* halves = reinterpret_cast<uint16_t*>(header.data());
    constexpr uint16_t kNasty[] = {0x7c00, 0xfc00, 0x7e00, 0x7c01, 0x7bff, 0xfbff, 0x0001, 0x8000};
    const bool all = one_in(2);
    for (size_t i = 0; i < header.size() / 2; ++i) {
      if (!all && !one_in(50)) continue;
      halves[i] = one_in(2) ? kNasty[pick(0, 7)] : static_cast<uint16_t>(random_());
    }
  }

  std::string words() const {
    return "head_dim " + std::to_string(shape_.head_dim) + ", " +
           std::to_string(view_.token_count) + " tokens, codecs " +
           std::to_string(static_cast<int>(view_.k_codec)) + "/" +
           std::to_string(static_cast<int>(view_.v_codec)) + ", centred " +
           std::to_string(view_.centred) + ", rotated " + std::to_string(view_.k_rotated) +
           ", per token " + std::to_string(view_.v_per_token);
  }

  std::mt19937_64 random_;
  KvShape shape_;
  BlockView view_;
  std::vector<float> q_, mean_;
};

TEST(record_fuzz, any_bytes_are_read_or_refused) {
  const uint64_t seed = number_from_environment("VKV_SEED", 20240801);
  const uint64_t steps = number_from_environment("VKV_STEPS", 1500);
  std::printf("VKV_SEED=%llu VKV_STEPS=%llu\n", static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(steps));
  RecordFuzz fuzz(seed);
  for (uint64_t step = 0; step < steps; ++step) {
    fuzz.step();
    if (testing::Test::HasFailure()) FAIL() << "step " << step;
  }
}

}  // namespace
}  // namespace vkv
