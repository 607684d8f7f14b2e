// parity_test.cpp: logits and greedy tokens equal those of transformers, for text, one image, a
// resized image, several images and a video, with KV stored at 16 bit.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "tests/llava_golden.h"
#include "tests/plain_cache.h"
#include "tools/mllm/generate.h"
#include "tools/mllm/image_processor.h"
#include "tools/mllm/media.h"

namespace vkv {
namespace {

struct Checkpoint {
  const char* name;
  std::string folder;
  std::string cases;
  // Differences that are allowed, of the greatest logit, with KV rounded to 16 bit. Random weights
  // amplify the rounding; a trained model does not.
  float half_tolerance;
};

constexpr float kFloatTolerance = 1e-4f;  // with KV in fp32: what transformers computes

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

  // The pixel values of a case: those of the file, or the pictures through the image processor.
  // Nothing if this build reads no pictures.
  std::vector<std::vector<float>> pixels(const GoldenCase& golden) const {
    std::vector<std::vector<float>> images;
    if (!golden.pixels.empty()) {
      EXPECT_EQ(golden.images.size(), 1u);
      return {golden.pixels};
    }
    auto processor = ImageProcessor::load(GetParam().folder);
    VKV_CHECK(processor.ok());
    for (const std::string& file : golden.images) {
      auto image = load_image(kTinyVlm + "golden/images/" + file);
      if (!image.ok() && image.status().code() == Code::kUnsupported) return {};
      VKV_CHECK(image.ok());
      auto values = processor.value().process(image.value());
      VKV_CHECK(values.ok());
      images.push_back(std::move(values.value()));
    }
    return images;
  }

  // Tokens before the first end token.
  std::vector<int32_t> until_end(const std::vector<int32_t>& tokens) const {
    const auto& eos = model_->config().eos_tokens;
    return {tokens.begin(),
            std::find_first_of(tokens.begin(), tokens.end(), eos.begin(), eos.end())};
  }

  // Logits of the prompt and of each greedy step, case by case. What comes past the end token is no
  // text that a model ever saw: its logits amplify rounding.
  void check_logits(Cache& cache, float tolerance, bool past_end) {
    for (const GoldenCase& golden : cases_) {
      const auto images = pixels(golden);
      if (images.size() != golden.images.size()) continue;
      auto visual = model_->encode_images(images, {});
      ASSERT_TRUE(visual.ok()) << visual.status().message();
      std::vector<Role> roles;
      for (const int32_t token : golden.tokens)
        roles.push_back(token == model_->config().image_token ? Role::kVisual : Role::kText);

      const SequenceId sequence = cache.create_sequence().value();
      ForwardRequest request = {.sequence = sequence,
                                .tokens = golden.tokens,
                                .roles = roles,
                                .visual = visual.value(),
                                .ends_window = true};
      auto logits = model_->forward(cache, request, {});
      ASSERT_TRUE(logits.ok()) << logits.status().message();
      float worst = golden_difference(logits.value(), golden.prompt_logits);

      const size_t vocabulary = golden.prompt_logits.size();
      const Role role = Role::kText;
      const size_t steps = past_end ? golden.step_logits.size() / vocabulary
                                    : std::min(until_end(golden.greedy_tokens).size(),
                                               golden.step_logits.size() / vocabulary);
      for (size_t step = 0; step < steps; ++step) {
        request = {.sequence = sequence,
                   .position = static_cast<int64_t>(golden.tokens.size() + step),
                   .tokens = std::span(golden.greedy_tokens).subspan(step, 1),
                   .roles = {&role, 1}};
        auto next = model_->forward(cache, request, {});
        ASSERT_TRUE(next.ok()) << next.status().message();
        const auto expected = std::span(golden.step_logits).subspan(step * vocabulary, vocabulary);
        worst = std::max(worst, golden_difference(next.value(), expected));
      }
      ASSERT_TRUE(cache.erase(sequence).ok());
      EXPECT_LE(worst, tolerance) << golden.name;
      std::printf("%-16s %4zu tokens: greatest difference %.2e\n", golden.name.c_str(),
                  golden.tokens.size(), static_cast<double>(worst));
    }
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Cache> cache_;
  std::vector<GoldenCase> cases_;
};

TEST_P(parity, image_features_equal_those_of_transformers) {
  float worst = 0;
  for (const GoldenCase& golden : cases_) {
    const auto images = pixels(golden);
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
  auto prompt = Prompt::make(tokenizer_.get(), PromptStyle::kAuto, model_->config().image_token,
                             model_->config().tokens_per_image());
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  for (const GoldenCase& golden : cases_) {
    std::vector<int32_t> tokens;
    const bool with_media = !golden.images.empty();
    if (with_media)
      tokens = prompt.value().media(static_cast<int>(golden.images.size())).value().tokens;
    const auto question = prompt.value().question(golden.question, with_media);
    ASSERT_TRUE(question.ok()) << question.status().message();
    tokens.insert(tokens.end(), question.value().tokens.begin(), question.value().tokens.end());
    EXPECT_EQ(tokens, golden.tokens) << golden.name;
    EXPECT_EQ(tokenizer_->decode(until_end(golden.greedy_tokens)), golden.answer) << golden.name;
  }
}

TEST_P(parity, logits_equal_those_of_transformers_with_kv_in_fp32) {
  PlainCache plain(model_->kv_shape());
  check_logits(plain, kFloatTolerance, true);
}

TEST_P(parity, logits_equal_those_of_transformers_with_kv_at_16_bit) {
  check_logits(*cache_, GetParam().half_tolerance, false);
}

TEST_P(parity, greedy_answers_equal_those_of_transformers) {
  auto generator = Generator::make(model_.get(), tokenizer_.get(), cache_.get(), {});
  ASSERT_TRUE(generator.ok()) << generator.status().message();
  for (const GoldenCase& golden : cases_) {
    const auto images = pixels(golden);
    if (images.size() != golden.images.size()) continue;
    const auto media = generator.value().encode_media(images, {});
    ASSERT_TRUE(media.ok()) << media.status().message();
    const std::vector<int32_t> expected = until_end(golden.greedy_tokens);
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
    testing::Values(Checkpoint{"random", kRandomCheckpoint, kRandomCheckpoint + "/cases", 2e-3f},
                    Checkpoint{"trained", kTinyVlm + "model", kTinyVlm + "golden/trained", 1e-3f}),
    [](const auto& checkpoint) { return checkpoint.param.name; });

}  // namespace
}  // namespace vkv
