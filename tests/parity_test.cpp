// parity_test.cpp: logits and greedy tokens equal those of transformers, for text, one image, a
// resized image, several images and a video.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <memory>

#include "tests/llava_run.h"
#include "tests/plain_cache.h"
#include "tools/mllm/generate.h"

namespace vkv {
namespace {

struct Checkpoint {
  const char* name;
  std::string folder;
  std::string cases;
  bool trained;
};

// Of the greatest logit.
constexpr float kLogitTolerance = 1e-4f;    // where both sides compute in fp32
constexpr float kRoundedTolerance = 3e-4f;  // both round KV; now and then to different sides
constexpr float kTrainedTolerance = 1e-3f;  // from fp32 to fp16, of a model that means something

void PrintTo(const Checkpoint& checkpoint, std::ostream* out) { *out << checkpoint.name; }

class parity : public testing::TestWithParam<Checkpoint> {
 protected:
  void SetUp() override {
    auto loaded = Model::load(GetParam().folder, {});
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    model_ = std::move(loaded.value());
    auto tokenizer = Tokenizer::load(GetParam().folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    tokenizer_ = std::make_unique<Tokenizer>(std::move(tokenizer.value()));
    auto cache = Cache::open({.shape = model_->kv_shape(), .dram_bytes_max = uint64_t{512} << 20});
    ASSERT_TRUE(cache.ok()) << cache.status().message();
    cache_ = std::move(cache.value());
    cases_ = load_golden_cases(GetParam().cases);
    ASSERT_GE(cases_.size(), 5u);
  }

  std::vector<float> logits(Cache& cache, const GoldenCase& golden, size_t steps) {
    return greedy_logits(*model_, cache, GetParam().folder, golden, steps);
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Cache> cache_;
  std::vector<GoldenCase> cases_;
};

TEST_P(parity, image_features_equal_those_of_transformers) {
  float worst = 0;
  for (const GoldenCase& golden : cases_) {
    const auto images = golden_images(GetParam().folder, golden);
    if (images.empty()) continue;
    auto features = model_->encode_images(images, {});
    ASSERT_TRUE(features.ok()) << features.status().message();
    ASSERT_EQ(features.value().size(), golden.features.size() * images.size());
    const auto first = std::span<const float>(features.value()).first(golden.features.size());
    worst = std::max(worst, golden_difference(first, golden.features));
  }
  EXPECT_LE(worst, 1e-4f);
  std::printf("image features: greatest difference %.2e\n", static_cast<double>(worst));
}

TEST_P(parity, prompt_tokens_equal_those_of_transformers) {
  auto prompt = Prompt::make(tokenizer_.get(), PromptStyle::kAuto, model_->config());
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  for (const GoldenCase& golden : cases_) {
    std::vector<int32_t> tokens;
    const bool with_media = !golden.images.empty();
    if (with_media)
      tokens = prompt.value().media(std::vector<VisualShape>(golden.images.size())).value().tokens;
    const auto question = prompt.value().question(golden.question, with_media);
    ASSERT_TRUE(question.ok()) << question.status().message();
    tokens.insert(tokens.end(), question.value().tokens.begin(), question.value().tokens.end());
    EXPECT_EQ(tokens, golden.tokens) << golden.name;
    EXPECT_EQ(tokenizer_->decode(until_end(*model_, golden.greedy_tokens)), golden.answer)
        << golden.name;
  }
}

TEST_P(parity, logits_equal_those_of_transformers) {
  PlainCache plain(model_->kv_shape(), PlainCache::Values::kAsGiven);
  for (const GoldenCase& golden : readable_cases(GetParam().folder, cases_)) {
    const size_t vocabulary = golden.prompt_logits.size();
    const size_t steps = golden.step_logits.size() / vocabulary;
    const float worst =
        row_difference(logits(plain, golden, steps), golden_logits(golden, steps), vocabulary);
    EXPECT_LE(worst, kLogitTolerance) << golden.name;
    std::printf("%-16s %4zu tokens: %.2e from transformers\n", golden.name.c_str(),
                golden.tokens.size(), static_cast<double>(worst));
  }
}

// `exact` stores fp16. What that rounding does to logits is the model's matter (random weights
// amplify it), so the cache is held to a cache that rounds to fp16 and else computes in fp32.
TEST_P(parity, the_cache_adds_nothing_to_the_rounding_of_kv_to_fp16) {
  PlainCache rounded(model_->kv_shape(), PlainCache::Values::kRoundedToHalf);
  for (const GoldenCase& golden : readable_cases(GetParam().folder, cases_)) {
    const size_t vocabulary = golden.prompt_logits.size();
    const size_t steps = golden.step_logits.size() / vocabulary;
    const std::vector<float> ours = logits(*cache_, golden, steps);
    const float worst = row_difference(ours, logits(rounded, golden, steps), vocabulary);
    EXPECT_LE(worst, kRoundedTolerance) << golden.name;

    // What comes past the end token is no text that the model ever saw.
    const size_t answered = std::min(until_end(*model_, golden.greedy_tokens).size(), steps);
    const std::vector<float> expected = golden_logits(golden, answered);
    const float from_golden =
        row_difference({ours.begin(), ours.begin() + static_cast<ptrdiff_t>(expected.size())},
                       expected, vocabulary);
    if (GetParam().trained) {
      EXPECT_LE(from_golden, kTrainedTolerance) << golden.name;
    }
    std::printf("%-16s %4zu tokens: %.2e from KV rounded to fp16, %.2e from transformers\n",
                golden.name.c_str(), golden.tokens.size(), static_cast<double>(worst),
                static_cast<double>(from_golden));
  }
}

TEST_P(parity, greedy_answers_equal_those_of_transformers) {
  auto generator = Generator::make(model_.get(), tokenizer_.get(), cache_.get(), {});
  ASSERT_TRUE(generator.ok()) << generator.status().message();
  for (const GoldenCase& golden : cases_) {
    const auto images = golden_images(GetParam().folder, golden);
    if (images.size() != golden.images.size()) continue;
    const auto media = generator.value().encode_media(images, {});
    ASSERT_TRUE(media.ok()) << media.status().message();
    const std::vector<int32_t> expected = until_end(*model_, golden.greedy_tokens);
    const bool ends = expected.size() < golden.greedy_tokens.size();

    std::string streamed;
    const Question question = {
        .text = golden.question,
        .sampling = {.max_new_tokens = static_cast<int>(golden.greedy_tokens.size())},
        .on_text = [&](std::string_view piece) { streamed += piece; }};
    const auto answer = generator.value().answer(question, media.value());
    ASSERT_TRUE(answer.ok()) << answer.status().message();
    EXPECT_EQ(answer.value().tokens, expected) << golden.name;
    EXPECT_EQ(answer.value().text, tokenizer_->decode(expected)) << golden.name;
    EXPECT_EQ(streamed, answer.value().text) << golden.name;
    EXPECT_EQ(answer.value().finish, ends ? FinishReason::kEos : FinishReason::kLength);
    const auto& roles = answer.value().prompt_tokens;
    EXPECT_EQ(roles[0] + roles[1] + roles[2], golden.tokens.size());
    EXPECT_EQ(roles[static_cast<size_t>(Role::kVisual)],
              golden.images.size() * static_cast<size_t>(model_->config().tokens_per_image()));
  }
  EXPECT_EQ(cache_->stats().sequence_count, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    llava, parity,
    testing::Values(Checkpoint{"random", kRandomCheckpoint, kRandomCheckpoint + "/cases", false},
                    Checkpoint{"trained", kTinyVlm + "model", kTinyVlm + "golden/trained", true}),
    [](const auto& checkpoint) { return checkpoint.param.name; });

}  // namespace
}  // namespace vkv
