// language_model_test.cpp: tokens, logits and greedy answers of decoders from GGUF files equal
// those of transformers, and what needs vision is refused. SPDX-License-Identifier: Apache-2.0
//
// tools/smollm/make_golden.py describes the goldens. The checkpoint with random weights is in the
// repository; SmolLM2's is skipped unless tools/setup.sh --with-language-model fetched it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/llava_golden.h"
#include "tests/plain_cache.h"
#include "tools/mllm/generate.h"

namespace vkv {
namespace {

const std::string kSmollm = VKV_SOURCE_DIR "/tools/smollm/";

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
  float half_tolerance;  // of logits, with KV rounded to 16 bit
};

constexpr float kFloatTolerance = 1e-4f;  // with KV in fp32: what transformers computes

void PrintTo(const Decoder& decoder, std::ostream* out) { *out << decoder.name; }

struct TextCase {
  std::string name;
  std::string question;  // empty: the prompt is plain text
  std::string text;
  std::string answer;
  std::vector<int32_t> tokens;
  std::vector<int32_t> greedy_tokens;
  std::vector<int32_t> logit_ids;  // [kept]
  std::vector<float> logits;       // [1 + steps, kept]
};

std::vector<TextCase> load_text_cases(const std::string& path) {
  const nlohmann::json list = nlohmann::json::parse(std::ifstream(path + ".json"));
  const auto file = SafetensorsFile::open(path + ".safetensors");
  VKV_CHECK(file.ok());
  std::vector<TextCase> cases;
  for (const nlohmann::json& entry : list["cases"]) {
    TextCase golden{.name = entry["name"],
                    .question = entry["question"],
                    .text = entry["text"],
                    .answer = entry["answer"],
                    .tokens = entry["tokens"],
                    .greedy_tokens = entry["greedy_tokens"]};
    golden.logits = golden_floats(file.value(), (golden.name + ".logits").c_str());
    const auto ids = file.value().tensors().find(golden.name + ".logit_ids")->second.data;
    golden.logit_ids.resize(ids.size() / sizeof(int32_t));
    std::memcpy(golden.logit_ids.data(), ids.data(), ids.size());
    cases.push_back(std::move(golden));
  }
  return cases;
}

class language_model : public testing::TestWithParam<Decoder> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(GetParam().path))
      GTEST_SKIP() << "no " << GetParam().path << ": tools/setup.sh --with-language-model gets it";
    auto loaded = Model::load(GetParam().path, {});
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    model_ = std::move(loaded.value());
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

  // Of the kept logits after the prompt and after each greedy token.
  void check_logits(Cache& cache, float tolerance) {
    for (const TextCase& golden : cases_) {
      const SequenceId sequence = cache.create_sequence().value();
      const size_t kept = golden.logit_ids.size(), steps = golden.logits.size() / kept - 1;
      const std::vector<Role> roles(golden.tokens.size(), Role::kText);
      float worst = 0;
      for (size_t step = 0; step <= steps; ++step) {
        ForwardRequest request = {
            .sequence = sequence, .tokens = golden.tokens, .roles = roles, .ends_window = true};
        if (step > 0)
          request = {.sequence = sequence,
                     .position = static_cast<int64_t>(golden.tokens.size() + step - 1),
                     .tokens = std::span(golden.greedy_tokens).subspan(step - 1, 1),
                     .roles = std::span(roles).first(1)};
        const auto logits = model_->forward(cache, request, {});
        ASSERT_TRUE(logits.ok()) << logits.status().message();
        std::vector<float> actual;
        for (const int32_t id : golden.logit_ids)
          actual.push_back(logits.value()[static_cast<size_t>(id)]);
        worst = std::max(
            worst, golden_difference(actual, std::span(golden.logits).subspan(step * kept, kept)));
      }
      ASSERT_TRUE(cache.erase(sequence).ok());
      EXPECT_LE(worst, tolerance) << golden.name;
      std::printf("%-16s %4zu tokens: greatest difference %.2e\n", golden.name.c_str(),
                  golden.tokens.size(), static_cast<double>(worst));
    }
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<TextCase> cases_;
};

TEST_P(language_model, tokens_and_prompts_equal_those_of_transformers) {
  const auto prompt = Prompt::make(tokenizer_.get(), PromptStyle::kAuto, -1, 0);
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

TEST_P(language_model, logits_equal_those_of_transformers_with_kv_in_fp32) {
  PlainCache plain(model_->kv_shape());
  check_logits(plain, kFloatTolerance);
}

TEST_P(language_model, logits_equal_those_of_transformers_with_kv_at_16_bit) {
  const auto cache = open_cache();
  check_logits(*cache, GetParam().half_tolerance);
}

TEST_P(language_model, greedy_answers_equal_those_of_transformers) {
  const auto cache = open_cache();
  auto generator = Generator::make(model_.get(), tokenizer_.get(), cache.get(), {});
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
  const std::vector<std::vector<float>> images(1, std::vector<float>(3 * 8 * 8));
  const Status status = model_->encode_images(images, {}).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_EQ(status.message(), "the model reads text alone: ask it without pictures and videos");
}

INSTANTIATE_TEST_SUITE_P(gguf, language_model,
                         testing::Values(Decoder{"random", kSmollm + "golden/random.gguf", 2e-3f},
                                         Decoder{"smollm2", fetched_path(), 2e-3f}),
                         [](const auto& decoder) { return decoder.param.name; });

}  // namespace
}  // namespace vkv
