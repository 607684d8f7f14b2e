// cuda_model_test.cpp: on a GPU a model gives what it gives on the CPU and what transformers gives:
// in fp32 to a few parts in 10^5, in bf16 the same greedy answers.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <memory>

#include "kernels/gpu_devices.h"
#include "tests/clip_llama_golden.h"
#include "tests/llava_run.h"
#include "tests/plain_cache.h"
#include "tests/plain_cuda_cache.h"
#include "tests/text_golden.h"
#include "tools/mllm/generate.h"

namespace vkv {
namespace {

// Of the greatest logit or feature.
constexpr float kCpuTolerance = 1e-4f;         // both compute in fp32, and sum in another order
constexpr float kGoldenTolerance = 1e-3f;      // fp32 against transformers
constexpr float kBf16Tolerance = 3e-2f;        // weights, products, K and V in bf16
constexpr float kRandomBf16Tolerance = 5e-2f;  // of a model whose scores are noise, which amplifies

bool there_is_a_gpu() {
  const auto devices = list_gpu_devices();
  return devices.ok() && !devices.value().empty();
}

std::unique_ptr<Model> load(const std::string& path, const ModelOptions& options) {
  auto loaded = Model::load(path, options);
  EXPECT_TRUE(loaded.ok()) << loaded.status().message();
  return loaded.ok() ? std::move(loaded.value()) : nullptr;
}

PlainCudaCache cuda_cache(const Model& model) {
  return {model.kv_shape(), model.element(), model.cuda_stream()};
}

constexpr ModelOptions kInFp32 = {.device = Device::kCuda, .cuda_in_fp32 = true};
constexpr ModelOptions kInBf16 = {.device = Device::kCuda};

struct Checkpoint {
  const char* name;
  std::string folder;
  std::string cases;
};

void PrintTo(const Checkpoint& checkpoint, std::ostream* out) { *out << checkpoint.name; }

class cuda_model : public testing::Test {
 protected:
  void SetUp() override {
    if (!there_is_a_gpu()) GTEST_SKIP() << "no GPU";
  }
};

class cuda_llava : public testing::TestWithParam<Checkpoint> {
 protected:
  void SetUp() override {
    if (!there_is_a_gpu()) GTEST_SKIP() << "no GPU";
    cases_ = readable_cases(GetParam().folder, load_golden_cases(GetParam().cases));
    ASSERT_GE(cases_.size(), 1u);
  }

  // The greatest difference of the first image's features in any case.
  float feature_difference(Model& model) const {
    float worst = 0;
    for (const GoldenCase& golden : cases_) {
      if (golden.images.empty()) continue;
      const auto images = golden_images(GetParam().folder, golden);
      const auto features = model.encode_images(images, {});
      EXPECT_TRUE(features.ok()) << features.status().message();
      if (!features.ok() || features.value().size() != golden.features.size() * images.size())
        return INFINITY;
      const auto first = std::span<const float>(features.value()).first(golden.features.size());
      worst = std::max(worst, golden_difference(first, golden.features));
    }
    return worst;
  }

  // Greedy answers are those of the goldens.
  void expect_answers(Model& model) const {
    const auto tokenizer = Tokenizer::load(GetParam().folder);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    PlainCudaCache cache = cuda_cache(model);
    auto generator = Generator::make(&model, &tokenizer.value(), &cache, {});
    ASSERT_TRUE(generator.ok()) << generator.status().message();
    for (const GoldenCase& golden : cases_) {
      const auto images = golden_images(GetParam().folder, golden);
      const auto media = generator.value().encode_media(images, {});
      ASSERT_TRUE(media.ok()) << media.status().message();
      const int steps = static_cast<int>(golden.greedy_tokens.size());
      const auto answer = generator.value().answer(
          {.text = golden.question, .sampling = {.max_new_tokens = steps}}, media.value());
      ASSERT_TRUE(answer.ok()) << answer.status().message();
      EXPECT_EQ(answer.value().tokens, until_end(model, golden.greedy_tokens)) << golden.name;
    }
    EXPECT_EQ(cache.stats().sequence_count, 0u);
  }

  std::vector<GoldenCase> cases_;
};

TEST_P(cuda_llava, fp32_logits_equal_those_of_the_cpu_and_of_transformers) {
  const auto on_cpu = load(GetParam().folder, {}), on_gpu = load(GetParam().folder, kInFp32);
  ASSERT_TRUE(on_cpu != nullptr && on_gpu != nullptr);
  EXPECT_EQ(on_gpu->element(), ElementType::kF32);
  PlainCache cpu_cache(on_cpu->kv_shape(), PlainCache::Values::kAsGiven);
  PlainCudaCache gpu_cache = cuda_cache(*on_gpu);
  for (const GoldenCase& golden : cases_) {
    const size_t vocabulary = golden.prompt_logits.size();
    const size_t steps = golden.step_logits.size() / vocabulary;
    const auto expected = greedy_logits(*on_cpu, cpu_cache, GetParam().folder, golden, steps);
    const auto actual = greedy_logits(*on_gpu, gpu_cache, GetParam().folder, golden, steps);
    const float from_cpu = row_difference(actual, expected, vocabulary);
    const float from_golden = row_difference(actual, golden_logits(golden, steps), vocabulary);
    EXPECT_LE(from_cpu, kCpuTolerance) << golden.name;
    EXPECT_LE(from_golden, kGoldenTolerance) << golden.name;
    std::printf("%-16s %4zu tokens: %.2e from the CPU, %.2e from transformers\n",
                golden.name.c_str(), golden.tokens.size(), static_cast<double>(from_cpu),
                static_cast<double>(from_golden));
  }
  const float features = feature_difference(*on_gpu);
  EXPECT_LE(features, kCpuTolerance);
  std::printf("image features: %.2e from transformers\n", static_cast<double>(features));
}

TEST_P(cuda_llava, bf16_logits_are_near_those_of_transformers) {
  const auto model = load(GetParam().folder, kInBf16);
  ASSERT_TRUE(model != nullptr);
  EXPECT_EQ(model->element(), ElementType::kF32);
  PlainCudaCache cache = cuda_cache(*model);
  for (const GoldenCase& golden : cases_) {
    const size_t vocabulary = golden.prompt_logits.size();
    // What comes past the end token is no text that the model ever saw.
    const size_t steps = std::min(until_end(*model, golden.greedy_tokens).size(),
                                  golden.step_logits.size() / vocabulary);
    const auto actual = greedy_logits(*model, cache, GetParam().folder, golden, steps);
    const float worst = row_difference(actual, golden_logits(golden, steps), vocabulary);
    EXPECT_LE(worst, kBf16Tolerance) << golden.name;
    std::printf("%-16s %4zu tokens: %.2e from transformers\n", golden.name.c_str(),
                golden.tokens.size(), static_cast<double>(worst));
  }
  const float features = feature_difference(*model);
  EXPECT_LE(features, kBf16Tolerance);
  std::printf("image features: %.2e from transformers\n", static_cast<double>(features));
}

TEST_P(cuda_llava, greedy_answers_equal_those_of_transformers) {
  for (const ModelOptions& options : {kInFp32, kInBf16}) {
    const auto model = load(GetParam().folder, options);
    ASSERT_TRUE(model != nullptr);
    SCOPED_TRACE(options.cuda_in_fp32 ? "fp32" : "bf16");
    expect_answers(*model);
  }
}

INSTANTIATE_TEST_SUITE_P(
    llava, cuda_llava,
    testing::Values(Checkpoint{"random", kRandomCheckpoint, kRandomCheckpoint + "/cases"},
                    Checkpoint{"trained", kTinyVlm + "model", kTinyVlm + "golden/trained"}),
    [](const auto& checkpoint) { return checkpoint.param.name; });

TEST_F(cuda_model, a_clip_tower_and_a_llama_decoder_give_what_transformers_gives) {
  const ClipLlamaGolden golden = load_clip_llama_golden();
  for (const ModelOptions& options : {kInFp32, kInBf16}) {
    const auto model = load(kClipLlama, options);
    ASSERT_TRUE(model != nullptr);
    const float tolerance = options.cuda_in_fp32 ? kCpuTolerance : kBf16Tolerance;
    const auto features = model->encode_images(golden.images, {});
    ASSERT_TRUE(features.ok()) << features.status().message();
    const float feature_gap = golden_difference(features.value(), golden.features);
    EXPECT_LE(feature_gap, tolerance);
    PlainCudaCache cache = cuda_cache(*model);
    for (const size_t first : {golden.tokens.size(), size_t{11}}) {
      const float gap = golden_difference(
          logits_in_parts(*model, cache, golden.tokens, features.value(), first), golden.logits);
      EXPECT_LE(gap, tolerance) << first;
      std::printf("%s: features %.2e, logits %.2e from transformers\n",
                  options.cuda_in_fp32 ? "fp32" : "bf16", static_cast<double>(feature_gap),
                  static_cast<double>(gap));
    }
  }
}

TEST_F(cuda_model, a_decoder_from_a_gguf_file_gives_what_transformers_gives) {
  for (const ModelOptions& options : {kInFp32, kInBf16}) {
    const auto model = load(kSmollm + "golden/random.gguf", options);
    ASSERT_TRUE(model != nullptr);
    PlainCudaCache cache = cuda_cache(*model);
    for (const TextCase& golden : load_text_cases(kSmollm + "golden/random")) {
      const float gap = kept_difference(golden, kept_logits(*model, cache, golden), golden.logits);
      EXPECT_LE(gap, options.cuda_in_fp32 ? kCpuTolerance : kRandomBf16Tolerance) << golden.name;
      std::printf("%s: %-16s %4zu tokens: %.2e from transformers\n",
                  options.cuda_in_fp32 ? "fp32" : "bf16", golden.name.c_str(), golden.tokens.size(),
                  static_cast<double>(gap));
    }
  }
}

// The chunks of a long prompt, and parts of it, are the same tokens.
TEST_F(cuda_model, a_prompt_of_several_chunks_gives_what_the_cpu_gives) {
  const auto on_cpu = load(kRandomCheckpoint, {}), on_gpu = load(kRandomCheckpoint, kInFp32);
  ASSERT_TRUE(on_cpu != nullptr && on_gpu != nullptr);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 3001; ++i) tokens.push_back(4 + i * 37 % 500);
  PlainCache cpu_cache(on_cpu->kv_shape(), PlainCache::Values::kAsGiven);
  PlainCudaCache gpu_cache = cuda_cache(*on_gpu);
  for (const size_t first : {tokens.size(), size_t{1}, size_t{2300}}) {
    const auto expected = logits_in_parts(*on_cpu, cpu_cache, tokens, {}, first);
    const auto actual = logits_in_parts(*on_gpu, gpu_cache, tokens, {}, first);
    EXPECT_LE(golden_difference(actual, expected), kCpuTolerance) << first;
  }
}

TEST_F(cuda_model, half_the_bytes_of_fp32_hold_the_weights) {
  const auto in_fp32 = load(kRandomCheckpoint, kInFp32), in_bf16 = load(kRandomCheckpoint, kInBf16);
  ASSERT_TRUE(in_fp32 != nullptr && in_bf16 != nullptr);
  EXPECT_LT(in_bf16->weight_bytes(), in_fp32->weight_bytes() * 0.55);
  EXPECT_GE(in_bf16->weight_bytes(), in_fp32->weight_bytes() / 2);
}

TEST_F(cuda_model, a_stopped_call_leaves_a_model_that_works) {
  const auto model = load(kRandomCheckpoint, kInFp32);
  ASSERT_TRUE(model != nullptr);
  const std::vector<int32_t> tokens = {5, 77, 300, 41};
  const std::vector<Role> roles(tokens.size(), Role::kText);
  PlainCudaCache cache = cuda_cache(*model);
  const auto logits = [&](const Watch& watch) {
    const SequenceId sequence = cache.create_sequence().value();
    auto result =
        model->forward(cache, {.sequence = sequence, .tokens = tokens, .roles = roles}, watch);
    EXPECT_TRUE(cache.erase(sequence).ok());
    return result;
  };
  const auto before = logits({});
  ASSERT_TRUE(before.ok()) << before.status().message();
  // Stopped from inside, after the first layer.
  std::atomic<bool> stop = false;
  const auto stopped =
      logits({.progress = [&](uint64_t, uint64_t) { stop = true; }, .cancel = &stop});
  EXPECT_EQ(stopped.status().code(), Code::kCancelled);
  const auto after = logits({});
  ASSERT_TRUE(after.ok()) << after.status().message();
  EXPECT_EQ(after.value(), before.value());

  const Status wrong =
      model->forward(cache, {.tokens = tokens, .roles = std::span(roles).first(1)}, {}).status();
  EXPECT_EQ(wrong.code(), Code::kInvalidArgument);
}

TEST_F(cuda_model, a_cache_for_another_element_is_refused) {
  const auto model = load(kRandomCheckpoint, kInBf16);
  ASSERT_TRUE(model != nullptr);
  const auto tokenizer = Tokenizer::load(kRandomCheckpoint);
  ASSERT_TRUE(tokenizer.ok());
  PlainCudaCache cache(model->kv_shape(), ElementType::kBf16, model->cuda_stream());
  EXPECT_EQ(Generator::make(model.get(), &tokenizer.value(), &cache, {}).status().code(),
            Code::kInvalidArgument);
}

}  // namespace
}  // namespace vkv
