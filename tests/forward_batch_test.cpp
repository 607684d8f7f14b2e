// forward_batch_test.cpp: a batch gives each sequence the logits that it gets alone, whatever else
// stands in it; what no batch can have is refused before anything changes.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "tests/cache_driver.h"
#include "tests/llava_golden.h"
#include "tools/mllm/model.h"

namespace vkv {
namespace {

class forward_batch : public testing::Test {
 protected:
  // What one sequence is asked for.
  struct Step {
    std::vector<int32_t> tokens;
    int logit_count = 1;
  };

  forward_batch() : model_(std::move(Model::load(kRandomCheckpoint, {}).value())) {
    for (auto* cache : {&alone_, &together_})
      *cache = must_open({.shape = model_->kv_shape(),
                          .precision = precision_preset("exact").value(),
                          .recent_tokens = 16,
                          .dram_bytes_max = uint64_t{64} << 20});
  }

  std::vector<int32_t> random_tokens(int count) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < count; ++i)
      tokens.push_back(static_cast<int32_t>(10 + random_() % 200));  // 5 is a picture
    return tokens;
  }

  ForwardRequest request(size_t index, const Step& step) const {
    return {.sequence = sequences_[index],
            .position = positions_[index],
            .tokens = step.tokens,
            .roles = std::span(roles_).first(step.tokens.size()),
            .logit_count = step.logit_count};
  }

  // A sequence in each cache, of that many tokens.
  void add_sequence(int tokens) {
    const SequenceId id = must_create(*alone_);
    ASSERT_EQ(must_create(*together_), id);
    sequences_.push_back(id);
    positions_.push_back(0);
    const Step prompt = {random_tokens(tokens), 0};
    ForwardRequest whole = request(sequences_.size() - 1, prompt);
    whole.ends_window = true;
    for (Cache* cache : {alone_.get(), together_.get()})
      ASSERT_TRUE(model_->forward(*cache, whole, {}).ok());
    positions_.back() += tokens;
  }

  // Steps of some of the sequences, by index; both ways. Products of other numbers of rows may
  // round otherwise, and with them a key to 16 bit.
  void expect_same(const std::vector<std::pair<size_t, Step>>& steps) {
    std::vector<ForwardRequest> batch;
    std::vector<float> expected;
    for (const auto& [index, step] : steps) {
      batch.push_back(request(index, step));
      const auto logits = model_->forward(*alone_, batch.back(), {});
      ASSERT_TRUE(logits.ok()) << logits.status().message();
      expected.insert(expected.end(), logits.value().begin(), logits.value().end());
    }
    const auto got = model_->forward(*together_, batch, {});
    ASSERT_TRUE(got.ok()) << got.status().message();
    ASSERT_EQ(got.value().size(), expected.size());
    float largest = 0;
    for (const float value : expected) largest = std::max(largest, std::abs(value));
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(got.value()[i], expected[i], 1e-3f * largest) << i;
    for (const auto& [index, step] : steps)
      positions_[index] += static_cast<int64_t>(step.tokens.size());
  }

  void expect_refused(const std::vector<ForwardRequest>& batch, const std::string& words) {
    const auto result = model_->forward(*together_, batch, {});
    EXPECT_EQ(result.status().code(), Code::kInvalidArgument);
    EXPECT_NE(result.status().message().find(words), std::string::npos)
        << result.status().message();
  }

  std::mt19937 random_{5};
  std::unique_ptr<Model> model_;
  std::unique_ptr<Cache> alone_, together_;
  std::vector<SequenceId> sequences_;
  std::vector<int64_t> positions_;
  const std::vector<Role> roles_ = std::vector<Role>(1024, Role::kText);
};

TEST_F(forward_batch, gives_each_sequence_its_own_logits) {
  for (const int tokens : {1, 700, 130, 40}) add_sequence(tokens);
  for (int round = 0; round < 40; ++round) {  // seals blocks on the way
    std::vector<std::pair<size_t, Step>> steps;
    for (size_t index = 0; index < sequences_.size(); ++index) {
      if (random_() % 4 == 0) continue;
      const int count = random_() % 3 == 0 ? 4 : 1;  // a draft, or one token
      const int logits = static_cast<int>(random_() % static_cast<uint32_t>(count + 1));
      steps.push_back({index, {random_tokens(count), logits}});
    }
    if (steps.empty()) continue;
    std::ranges::shuffle(steps, random_);
    expect_same(steps);
  }
}

TEST_F(forward_batch, refuses_what_does_not_go_together) {
  for (const int tokens : {20, 30}) add_sequence(tokens);
  const Step one = {{7}, 1}, many = {random_tokens(200), 1};
  const ForwardRequest a = request(0, one), b = request(1, one);
  expect_refused({}, "no requests");
  expect_refused({a, a}, "stands in it twice");
  expect_refused({request(0, many), request(1, many)}, "400 tokens; it takes 256");
  ForwardRequest ends = b;
  ends.ends_window = true;
  expect_refused({a, ends}, "go alone");
  ForwardRequest wrong = b;
  wrong.logit_count = 2;
  expect_refused({a, wrong}, "2 logits of 1 tokens");
  expect_same({{0, one}, {1, one}});  // and nothing has changed
}

}  // namespace
}  // namespace vkv
