// language_model_test.cpp: tokens, logits and greedy answers of decoders from GGUF files equal
// those of transformers, and what needs vision is refused. SPDX-License-Identifier: Apache-2.0
//
// tools/smollm/make_golden.py describes the goldens. The checkpoint with random weights is in the
// repository; SmolLM2's is skipped unless tools/setup.sh --with-language-model fetched it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "tests/plain_cache.h"
#include "tests/text_golden.h"
#include "tools/mllm/generate.h"

namespace vkv {
namespace {

// As in tools/fetch_language_model.sh.
std::string fetched_path() {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::filesystem::path(value == nullptr ? "" : value);
  };
  std::filesystem::path cache = variable("VKV_CACHE");
  if (cache.empty()) {
    cache = variable("XDG_CACHE_HOME");
    if (cache.empty()) cache = variable("HOME") / ".cache";
    cache /= "vkv";
  }
  return cache / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

struct Decoder {
  const char* name;
  std::string path;
  bool trained;
  // Where both sides round KV, now and then to different sides: that grows with every layer.
  float rounded_tolerance;
};

// Of the greatest logit.
constexpr float kLogitTolerance = 1e-4f;    // where both sides compute in fp32
constexpr float kTrainedTolerance = 1e-3f;  // from fp32 to fp16, of a model that means something

void PrintTo(const Decoder& decoder, std::ostream* out) { *out << decoder.name; }

class language_model : public testing::TestWithParam<Decoder> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(GetParam().path))
      GTEST_SKIP() << "no " << GetParam().path << ": tools/setup.sh --with-language-model gets it";
    // Loaded once for all cases: a second each.
    static std::map<std::string, std::unique_ptr<Model>> models;
    std::unique_ptr<Model>& model = models[GetParam().name];
    if (model == nullptr) {
      auto loaded = Model::load(GetParam().path, {});
      ASSERT_TRUE(loaded.ok()) << loaded.status().message();
      model = std::move(loaded.value());
    }
    model_ = model.get();
    auto tokenizer = Tokenizer::load(GetParam().path);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    tokenizer_ = std::make_unique<Tokenizer>(std::move(tokenizer.value()));
    cases_ = load_text_cases(kSmollm + "golden/" + GetParam().name);
    ASSERT_GE(cases_.size(), 5u);
  }

  std::unique_ptr<Cache> open_cache() const {
    auto cache = Cache::open({.shape = model_->kv_shape(), .dram_bytes_max = uint64_t{512} << 20});
    VKV_CHECK(cache.ok());
    return std::move(cache.value());
  }

  std::vector<int32_t> until_end(const std::vector<int32_t>& tokens) const {
    const auto& eos = model_->config().eos_tokens;
    return {tokens.begin(),
            std::find_first_of(tokens.begin(), tokens.end(), eos.begin(), eos.end())};
  }

  Model* model_ = nullptr;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<TextCase> cases_;
};

TEST_P(language_model, tokens_and_prompts_equal_those_of_transformers) {
  const auto prompt = Prompt::make(tokenizer_.get(), PromptStyle::kAuto, model_->config());
  ASSERT_TRUE(prompt.ok()) << prompt.status().message();
  for (const TextCase& golden : cases_) {
    const auto tokens = tokenizer_->encode(golden.text, Tokenizer::AddedTokens::kParse);
    ASSERT_TRUE(tokens.ok()) << tokens.status().message();
    EXPECT_EQ(tokens.value(), golden.tokens) << golden.name;
    EXPECT_EQ(tokenizer_->decode(until_end(golden.greedy_tokens)), golden.answer) << golden.name;
    if (golden.question.empty()) continue;
    const auto question = prompt.value().question(golden.question, false);
    ASSERT_TRUE(question.ok()) << question.status().message();
    EXPECT_EQ(question.value().tokens, golden.tokens) << golden.name;
    const auto& roles = question.value().roles;
    for (size_t i = 0; i < roles.size(); ++i)
      EXPECT_EQ(roles[i] == Role::kControl, tokenizer_->is_special(golden.tokens[i])) << i;
  }
}

TEST_P(language_model, logits_equal_those_of_transformers) {
  PlainCache plain(model_->kv_shape(), PlainCache::Values::kAsGiven);
  for (const TextCase& golden : cases_) {
    const float worst = kept_difference(golden, kept_logits(*model_, plain, golden), golden.logits);
    EXPECT_LE(worst, kLogitTolerance) << golden.name;
    std::printf("%-16s %4zu tokens: %.2e from transformers\n", golden.name.c_str(),
                golden.tokens.size(), static_cast<double>(worst));
  }
}

// See parity_test: what fp16 does to logits is the model's matter.
TEST_P(language_model, the_cache_adds_nothing_to_the_rounding_of_kv_to_fp16) {
  PlainCache rounded(model_->kv_shape(), PlainCache::Values::kRoundedToHalf);
  const auto cache = open_cache();
  for (const TextCase& golden : cases_) {
    const std::vector<float> ours = kept_logits(*model_, *cache, golden);
    const float worst = kept_difference(golden, ours, kept_logits(*model_, rounded, golden));
    EXPECT_LE(worst, GetParam().rounded_tolerance) << golden.name;
    const float from_golden = kept_difference(golden, ours, golden.logits);
    if (GetParam().trained) {
      EXPECT_LE(from_golden, kTrainedTolerance) << golden.name;
    }
    std::printf("%-16s %4zu tokens: %.2e from KV rounded to fp16, %.2e from transformers\n",
                golden.name.c_str(), golden.tokens.size(), static_cast<double>(worst),
                static_cast<double>(from_golden));
  }
}

TEST_P(language_model, greedy_answers_equal_those_of_transformers) {
  const auto cache = open_cache();
  auto generator = Generator::make(model_, tokenizer_.get(), cache.get(), {});
  ASSERT_TRUE(generator.ok()) << generator.status().message();
  for (const TextCase& golden : cases_) {
    if (golden.question.empty()) continue;
    const auto answer = generator.value().answer(
        {.text = golden.question,
         .sampling = {.max_new_tokens = static_cast<int>(golden.greedy_tokens.size())}},
        Media());
    ASSERT_TRUE(answer.ok()) << answer.status().message();
    EXPECT_EQ(answer.value().tokens, until_end(golden.greedy_tokens)) << golden.name;
  }
  EXPECT_EQ(cache->stats().sequence_count, 0u);
}

TEST_P(language_model, pictures_are_refused) {
  EXPECT_FALSE(model_->config().has_vision());
  EXPECT_EQ(model_->config().tokens_per_image(), 0);
  const std::vector<VisualInput> images = {{std::vector<float>(3 * 8 * 8), {}}};
  const Status status = model_->encode_images(images, {}).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_EQ(status.message(), "the model reads text alone: ask it without pictures and videos");
}

INSTANTIATE_TEST_SUITE_P(gguf, language_model,
                         testing::Values(Decoder{"random", kSmollm + "golden/random.gguf", false,
                                                 3e-4f},
                                         Decoder{"smollm2", fetched_path(), true, 6e-4f}),
                         [](const auto& decoder) { return decoder.param.name; });

}  // namespace
}  // namespace vkv
