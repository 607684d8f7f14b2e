// Whatever numbers and handles a program passes to the C ABI: an error with words, never a crash,
// and a cache that goes on as if nothing had been asked.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "vkv/vkv.h"

namespace {

constexpr int kLayers = 2, kHeads = 2, kHeadDim = 32, kTokensMax = 64;
constexpr size_t kRow = kHeads * kHeadDim;

class CallsAtRandom {
 public:
  explicit CallsAtRandom(uint32_t seed) : random_(seed), values_(kTokensMax * kRow, 0.25f) {
    out_ = values_;
    roles_.resize(kTokensMax, VKV_ROLE_VISUAL);
    EXPECT_EQ(vkv_options_init(&options_, sizeof options_), VKV_OK);
    options_.layers = kLayers;
    options_.q_heads = options_.kv_heads = kHeads;
    options_.head_dim = kHeadDim;
    options_.recent_tokens = 16;
    options_.dram_bytes_max = 8 << 20;
    options_.extent_bytes_max = 1 << 16;
    options_.threads = 1;
    options_.preset = "visual2";
    EXPECT_EQ(vkv_open(&options_, &cache_), VKV_OK) << vkv_last_error();
    vkv_cache* closed = nullptr;
    EXPECT_EQ(vkv_open(&options_, &closed), VKV_OK);
    EXPECT_EQ(vkv_close(closed), VKV_OK);
    handles_ = {nullptr, closed, reinterpret_cast<vkv_cache*>(&options_)};
  }
  ~CallsAtRandom() { EXPECT_EQ(vkv_close(cache_), VKV_OK); }

  // Mostly wrong, sometimes right; whatever it is, codes and words agree.
  void call() {
    const int32_t code = call_once();
    ASSERT_GE(code, VKV_OK);
    ASSERT_LE(code, VKV_NOT_FOUND);
    ASSERT_EQ(code == VKV_OK, std::string(vkv_last_error()).empty()) << vkv_last_error();
    ++code_counts_[code];
  }

  // So many calls ended with the code.
  int code_count(int32_t code) { return code_counts_[code]; }

  // Without what the calls made, which may fill the budget, a sequence that is right in all calls
  // gets its tokens and the right answer.
  void expect_alive() {
    for (const vkv_sequence made : sequences_) {
      const int32_t code = vkv_erase(cache_, made);  // or it was erased by a call
      ASSERT_TRUE(code == VKV_OK || code == VKV_NOT_FOUND) << vkv_last_error();
    }
    sequences_.clear();
    appended_.clear();
    vkv_stats stats{};
    stats.struct_size = sizeof stats;
    ASSERT_EQ(vkv_get_stats(cache_, &stats), VKV_OK) << vkv_last_error();
    ASSERT_EQ(stats.sequence_count, 0u);
    vkv_sequence sequence = 0;
    ASSERT_EQ(vkv_create_sequence(cache_, &sequence), VKV_OK) << vkv_last_error();
    for (int layer = 0; layer < kLayers; ++layer) {
      const vkv_append_request append = right_append(sequence, 8);
      vkv_attend_request attend = right_attend(sequence, 8);
      ASSERT_EQ(vkv_append(cache_, layer, &append), VKV_OK) << vkv_last_error();
      ASSERT_EQ(vkv_attend(cache_, layer, &attend, 1), VKV_OK) << vkv_last_error();
      ASSERT_NEAR(out_[0], 0.25f, 1e-3);
    }
    ASSERT_EQ(vkv_erase(cache_, sequence), VKV_OK);
  }

 private:
  template <class T>
  T one_of(const std::vector<T>& choices) {
    return choices[random_() % choices.size()];
  }
  bool rarely() { return random_() % 8 == 0; }

  int64_t strange() {
    return one_of<int64_t>({-1, 0, 1, 2, 3, 9, -2147483648ll, 2147483647, 2147483648ll, 4294967296,
                            std::numeric_limits<int64_t>::max(),
                            std::numeric_limits<int64_t>::min()});
  }
  int32_t strange32() { return static_cast<int32_t>(strange()); }
  double strange_double() {
    return one_of<double>({-1, 0, 0.5, 1, 2, 1e300, std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity()});
  }
  vkv_cache* handle() { return rarely() ? one_of(handles_) : cache_; }
  vkv_sequence sequence() {
    return rarely() || sequences_.empty() ? static_cast<vkv_sequence>(strange())
                                          : one_of(sequences_);
  }
  size_t size_near(size_t right) {
    return rarely() ? one_of<size_t>({0, 1, right - 8, right + 8, SIZE_MAX}) : right;
  }
  // Lengths beyond the arrays are the caller's lie, which no library can see: 1..64, or nonsense.
  int64_t token_count() {
    return rarely() ? one_of<int64_t>({-1, 0, INT64_MIN, INT64_MAX, int64_t{1} << 31})
                    : 1 + static_cast<int64_t>(random_() % kTokensMax);
  }
  void* tensor(std::vector<float>& values) {
    char* data = reinterpret_cast<char*>(values.data());
    return rarely() ? one_of<void*>({nullptr, data + 1, data + 2}) : data;
  }

  vkv_append_request right_append(vkv_sequence sequence, int64_t count) {
    return {
        sizeof(vkv_append_request), sequence, count, values_.data(), values_.data(), roles_.data()};
  }
  vkv_attend_request right_attend(vkv_sequence sequence, int64_t count) {
    return {sizeof(vkv_attend_request), sequence, count, values_.data(), out_.data(), 0, 0};
  }

  int32_t append() {
    vkv_append_request request = right_append(sequence(), token_count());
    request.struct_size = size_near(sizeof request);
    request.k = tensor(values_);
    request.v = tensor(values_);
    roles_[random_() % 4] = rarely() ? static_cast<uint8_t>(strange()) : uint8_t{VKV_ROLE_TEXT};
    const int32_t code = vkv_append(handle(), rarely() ? strange32() : 0, &request);
    std::fill(roles_.begin(), roles_.end(), uint8_t{VKV_ROLE_VISUAL});
    if (code == VKV_OK) appended_[request.sequence] = request.token_count;
    return code;
  }
  int32_t attend() {
    std::vector<vkv_attend_request> requests;
    for (uint32_t i = random_() % 3; i < 3; ++i) {
      const vkv_sequence one = sequence();
      const auto appended = appended_.find(one);
      const bool right = appended != appended_.end() && !rarely();
      requests.push_back(right_attend(one, right ? appended->second : token_count()));
      requests.back().struct_size = size_near(sizeof requests[0]);
      requests.back().q = tensor(values_);
      requests.back().out = tensor(out_);
      requests.back().ends_window = rarely() ? strange32() : 0;
      requests.back().reserved = rarely() ? strange32() : 0;
    }
    const int64_t count = rarely() ? one_of<int64_t>({-1, 0, INT64_MIN, INT64_MAX})
                                   : static_cast<int64_t>(requests.size());
    return vkv_attend(handle(), rarely() ? strange32() : 0, requests.data(), count);
  }
  int32_t open() {
    vkv_options options = options_;
    const auto spoil = [&](int32_t& member) {
      if (rarely()) member = strange32();
    };
    options.struct_size = size_near(sizeof options);
    for (int32_t* member :
         {&options.layers, &options.q_heads, &options.kv_heads, &options.head_dim, &options.element,
          &options.open_codec, &options.device_index, &options.keep_original,
          &options.recent_tokens, &options.quality_action, &options.keep_store,
          &options.prefetch_extents, &options.io_backend, &options.reserved, &options.reserved_2})
      spoil(*member);
    if (rarely()) options.dram_bytes_max = static_cast<uint64_t>(strange()) % (8 << 20);
    if (rarely()) options.extent_bytes_max = static_cast<uint64_t>(strange());
    if (rarely()) options.host_share = strange_double();
    if (rarely()) options.quality_sample_fraction = strange_double();
    if (rarely()) options.preset = one_of<const char*>({nullptr, "", "exact", "%s%n", "\xff"});
    vkv_cache* opened = nullptr;
    const int32_t code = vkv_open(&options, rarely() ? nullptr : &opened);
    EXPECT_EQ(code == VKV_OK, opened != nullptr);
    const std::string words = vkv_last_error();
    return opened == nullptr ? code : vkv_close(opened);
  }
  int32_t policy() {
    vkv_policy policy;
    const char* preset = one_of<const char*>({nullptr, "", "exact", "onebit", "visual1"});
    const int32_t code = vkv_policy_init(&policy, size_near(sizeof policy), preset);
    if (code != VKV_OK) return code;
    std::vector<vkv_layer_precision> layers(
        3, {sizeof(vkv_layer_precision), 0, 0, policy.high, policy.low});
    for (vkv_layer_precision& layer : layers) layer.layer = strange32();
    vkv_codec_pair* pairs[] = {&policy.high, &policy.low, &layers[0].high, &layers[2].low};
    vkv_codec_pair& pair = *pairs[random_() % 4];
    pair.struct_size = size_near(sizeof pair);
    pair.k_codec = strange32();
    if (rarely()) pair.v_codec = strange32();
    if (rarely()) pair.k_rotated = strange32();
    if (rarely()) pair.v_spread = static_cast<float>(strange_double());
    if (rarely()) policy.sink_sigmas = strange_double();
    policy.layers = rarely() ? nullptr : layers.data();
    policy.layer_count = rarely() ? one_of<int64_t>({-1, INT64_MIN, INT64_MAX})
                                  : static_cast<int64_t>(random_() % 4);
    vkv_layer_precision layer{size_near(sizeof layer), 0, 0, {}, {}};
    return vkv_policy_layer(&policy, strange32(), &layer);
  }
  int32_t create() {
    vkv_sequence made = 0;
    const int32_t code = vkv_create_sequence(handle(), rarely() ? nullptr : &made);
    if (made != 0) sequences_.push_back(made);
    return code;
  }
  int32_t ask() {
    vkv_stats stats{};
    stats.struct_size = size_near(sizeof stats);
    vkv_sequence_stats of_sequence{};
    of_sequence.struct_size = size_near(sizeof of_sequence);
    vkv_form_stats forms[2] = {};
    forms[0].struct_size = size_near(sizeof forms[0]);
    const char* name = nullptr;
    int64_t count = 0;
    switch (random_() % 5) {
      case 0:
        return vkv_get_stats(handle(), rarely() ? nullptr : &stats);
      case 1:
        return vkv_get_sequence_stats(handle(), sequence(), &of_sequence);
      case 2:
        return vkv_sequence_forms(handle(), sequence(), forms, one_of<int64_t>({-1, 0, 1, 2}),
                                  rarely() ? nullptr : &count);
      case 3:
        return vkv_get_engine(handle(), rarely() ? nullptr : &name);
      default:
        return vkv_shape_validate(strange32(), strange32(), strange32(), strange32());
    }
  }

  int32_t call_once() {
    const uint8_t key[VKV_KEY_BYTES] = {};
    vkv_sequence made = 0;
    switch (random_() % 12) {
      case 0:
      case 1:
        return create();
      case 2:
      case 3:
        return append();
      case 4:
      case 5:
        return attend();
      case 6:
        return open();
      case 7:
        return policy();
      case 8:
        return vkv_truncate(handle(), sequence(), strange());
      case 9: {
        const int32_t code = vkv_fork(handle(), sequence(), rarely() ? nullptr : &made);
        if (made != 0) sequences_.push_back(made);
        return code;
      }
      case 10:
        return rarely() ? vkv_restore(handle(), rarely() ? nullptr : key, &made)
                        : vkv_erase(handle(), sequence());
      default:
        return ask();
    }
  }

  std::minstd_rand random_;
  std::vector<float> values_, out_;
  std::vector<uint8_t> roles_;
  vkv_options options_;
  vkv_cache* cache_ = nullptr;
  std::vector<vkv_cache*> handles_;
  std::vector<vkv_sequence> sequences_;
  std::map<vkv_sequence, int64_t> appended_;  // tokens of each sequence's last append
  std::map<int32_t, int> code_counts_;
};

TEST(c_api, nonsense_is_told_and_changes_nothing) {
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CallsAtRandom calls(seed);
    for (int i = 0; i < 5000; ++i) {
      calls.call();
      if (testing::Test::HasFatalFailure()) return;
      if (i % 100 == 0) calls.expect_alive();
    }
    calls.expect_alive();
    for (const int32_t code : {VKV_OK, VKV_INVALID_ARGUMENT, VKV_NOT_FOUND, VKV_UNSUPPORTED})
      EXPECT_GT(calls.code_count(code), 10) << vkv_status_name(code);
  }
}

}  // namespace
