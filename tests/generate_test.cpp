// generate_test.cpp: answers do not depend on how the prompt was brought in (whole, in windows, by
// a shared prefix), sampling repeats by seed, and a failed call leaves no sequence behind.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/llava_golden.h"
#include "tests/temporary_directory.h"

namespace vkv {
namespace {

namespace fs = std::filesystem;

constexpr size_t kText = static_cast<size_t>(Role::kText);
constexpr size_t kVisual = static_cast<size_t>(Role::kVisual);
constexpr size_t kControl = static_cast<size_t>(Role::kControl);

class generate : public testing::Test {
 protected:
  generate() { open(kRandomCheckpoint); }

  void open(const std::string& folder) {
    model_ = std::move(Model::load(folder, {}).value());
    tokenizer_.emplace(std::move(Tokenizer::load(kRandomCheckpoint).value()));
    cache_ = std::move(Cache::open({.shape = model_->kv_shape(),
                                    .recent_tokens = 16,
                                    .dram_bytes_max = uint64_t{64} << 20})
                           .value());
  }

  Generator generator(const GeneratorOptions& options = {}) {
    return Generator::make(model_.get(), &*tokenizer_, cache_.get(), options).value();
  }

  // Pictures of noise: what is said of them does not matter here.
  static std::vector<VisualInput> noise(int image_count) {
    std::vector<VisualInput> images(static_cast<size_t>(image_count));
    uint32_t state = 20;
    for (auto& image : images)
      for (int i = 0; i < 3 * 128 * 128; ++i) {
        state = state * 1664525 + 1013904223;
        image.values.push_back(static_cast<float>(state >> 8) * 0x1p-23f - 1);
      }
    return images;
  }

  Media media(int image_count) { return generator().encode_media(noise(image_count), {}).value(); }

  void expect_refused(const Result<Answer>& answer, Code code, const std::string& words) {
    ASSERT_FALSE(answer.ok()) << words;
    EXPECT_EQ(answer.status().code(), code) << answer.status().message();
    EXPECT_NE(answer.status().message().find(words), std::string::npos)
        << answer.status().message();
    EXPECT_EQ(cache_->stats().sequence_count, 0u);
  }

  std::unique_ptr<Model> model_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<Cache> cache_;
};

TEST_F(generate, a_shared_prefix_gives_the_answers_of_whole_prompts) {
  Generator asker = generator();
  const Media frames = media(3);
  const auto prefix = asker.ingest(frames, {});
  ASSERT_TRUE(prefix.ok()) << prefix.status().message();
  EXPECT_EQ(prefix.value().token_count, 1 + 3 * 64);
  for (const char* text : {"What is red?", "How many?", "Which frame shows the circle?"}) {
    const Question question = {.text = text, .sampling = {.max_new_tokens = 6}};
    const auto whole = asker.answer(question, frames);
    const auto shared = asker.answer(question, prefix.value());
    ASSERT_TRUE(whole.ok() && shared.ok());
    EXPECT_EQ(shared.value().tokens, whole.value().tokens) << text;
    EXPECT_EQ(shared.value().prompt_tokens, whole.value().prompt_tokens) << text;
    EXPECT_EQ(shared.value().prompt_tokens[kVisual], 192u);
    EXPECT_EQ(shared.value().prompt_tokens[kControl], 1u);
    EXPECT_GT(shared.value().prompt_tokens[kText], 5u);
    EXPECT_EQ(shared.value().stats.role[kVisual].token_count, 192u);
    EXPECT_GT(shared.value().ttft_seconds, 0);
    EXPECT_GT(shared.value().tpot_seconds, 0);
  }
  EXPECT_EQ(cache_->stats().sequence_count, 1u);
  EXPECT_TRUE(asker.release(prefix.value()).ok());
  EXPECT_EQ(cache_->stats().sequence_count, 0u);
}

// Steps of all that decode go through the model together, and prompts come in between.
TEST_F(generate, answers_that_run_together_are_those_of_single_runs) {
  Generator asker = generator({.window_tokens_max = 40});
  const Media frames = media(2);
  const MediaPrefix prefix = asker.ingest(frames, {}).value();
  const Question questions[] = {
      {.text = "What is red?", .sampling = {.max_new_tokens = 9}},
      {.text = "How many?", .sampling = {.temperature = 1, .seed = 3, .max_new_tokens = 5}},
      {.text = "Which frame shows the circle?", .sampling = {.max_new_tokens = 12}}};
  std::vector<Answer> expected;
  for (const Question& question : questions)
    expected.push_back(asker.answer(question, prefix).value());

  std::vector<AnswerInProgress> running;
  std::vector<std::string> texts;
  for (const Question& question : questions) {  // one joins at each step
    running.push_back(std::move(asker.begin(question, prefix).value()));
    texts.emplace_back();
    AnswerInProgress& newest = running.back();
    while (newest.reads_prompt())
      texts.back() += newest.take(model_->forward(*cache_, newest.next(), {}).value());
    for (bool all_joined = running.size() == 3, more = true; more; more = all_joined) {
      std::vector<ForwardRequest> batch;
      for (const AnswerInProgress& answer : running)
        if (!answer.finished()) batch.push_back(answer.next());
      if (batch.empty()) break;
      const std::vector<float> logits = model_->forward(*cache_, batch, {}).value();
      const size_t vocabulary = logits.size() / batch.size();
      for (size_t i = 0, row = 0; i < running.size(); ++i)
        if (!running[i].finished())
          texts[i] += running[i].take(std::span(logits).subspan(row++ * vocabulary, vocabulary));
    }
  }
  for (size_t i = 0; i < running.size(); ++i) {
    EXPECT_EQ(running[i].tokens(), expected[i].tokens) << i;
    EXPECT_EQ(running[i].finish_reason(), expected[i].finish) << i;
    EXPECT_EQ(texts[i], expected[i].text) << i;
  }
  EXPECT_EQ(cache_->stats().sequence_count, 4u);
  running.clear();  // erases theirs
  EXPECT_EQ(cache_->stats().sequence_count, 1u);
}

TEST_F(generate, windows_give_the_answer_of_one_window) {
  const Media frames = media(2);
  const Question question = {.text = "What is in frame 01?", .sampling = {.max_new_tokens = 6}};
  const auto whole = generator().answer(question, frames);
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  for (const int window : {1000, 64, 50}) {
    const auto windows = generator({.window_tokens_max = window}).answer(question, frames);
    ASSERT_TRUE(windows.ok()) << windows.status().message();
    EXPECT_EQ(windows.value().tokens, whole.value().tokens) << window;
  }
}

// Pictures in pieces of some at once; then an error, if there is one, or the end.
class Pieces : public MediaSource {
 public:
  Pieces(std::vector<VisualInput> pictures, size_t piece_count, Status error = {})
      : pictures_(std::move(pictures)), piece_count_(piece_count), error_(std::move(error)) {
    for (const VisualInput& picture : pictures_) shapes_.push_back(picture.shape);
    if (!error_.ok()) shapes_.emplace_back();  // one that never comes
  }
  std::span<const VisualShape> shapes() const override { return shapes_; }
  Result<std::vector<VisualInput>> next(const Watch& watch) override {
    VKV_TRY(watch.check());
    const size_t end = std::min(pictures_.size(), next_ + piece_count_);
    if (next_ == end && !error_.ok()) return error_;
    std::vector<VisualInput> piece(pictures_.begin() + static_cast<ptrdiff_t>(next_),
                                   pictures_.begin() + static_cast<ptrdiff_t>(end));
    next_ = end;
    return piece;
  }

 private:
  const std::vector<VisualInput> pictures_;
  const size_t piece_count_;
  const Status error_;
  std::vector<VisualShape> shapes_;
  size_t next_ = 0;
};

TEST_F(generate, media_in_pieces_give_the_answers_of_media_at_once) {
  const Media frames = media(5);
  const Question question = {.text = "What is in frame 03?", .sampling = {.max_new_tokens = 6}};
  for (const int window : {1000, 100, 50}) {
    Generator asker = generator({.window_tokens_max = window});
    const auto whole = asker.answer(question, frames);
    ASSERT_TRUE(whole.ok()) << whole.status().message();
    for (const size_t piece_count : {1, 2, 5}) {
      SCOPED_TRACE(testing::Message() << window << " " << piece_count);
      Pieces once(noise(5), piece_count), again(noise(5), piece_count);
      uint64_t last_done = 0, last_total = 0;
      bool rises = true;
      Question watched = question;
      watched.watch.progress = [&](uint64_t done, uint64_t total) {
        rises = rises && done > last_done;
        last_done = done;
        last_total = total;
      };
      const auto answer = asker.answer(watched, once);
      ASSERT_TRUE(answer.ok()) << answer.status().message();
      EXPECT_EQ(answer.value().tokens, whole.value().tokens);
      EXPECT_EQ(answer.value().prompt_tokens, whole.value().prompt_tokens);
      EXPECT_GT(answer.value().media_seconds, 0);
      EXPECT_GT(answer.value().ttft_seconds, 0);
      EXPECT_TRUE(rises);
      EXPECT_EQ(last_done, last_total);
      const auto prefix = asker.ingest(again, {});
      ASSERT_TRUE(prefix.ok()) << prefix.status().message();
      EXPECT_EQ(asker.answer(question, prefix.value()).value().tokens, whole.value().tokens);
      EXPECT_TRUE(asker.release(prefix.value()).ok());
    }
  }
}

TEST_F(generate, a_source_that_fails_leaves_no_sequence) {
  Generator asker = generator({.window_tokens_max = 100});
  Pieces broken(noise(3), 1, {Code::kDataLoss, "the file is cut"});
  expect_refused(asker.answer({.text = "What?"}, broken), Code::kDataLoss, "the file is cut");
  Pieces again(noise(3), 1, {Code::kDataLoss, "the file is cut"});
  EXPECT_EQ(asker.ingest(again, {}).status().code(), Code::kDataLoss);
  std::atomic<bool> stop = true;
  Pieces stopped(noise(3), 1);
  EXPECT_EQ(asker.ingest(stopped, {.cancel = &stop}).status().code(), Code::kCancelled);
  EXPECT_EQ(cache_->stats().sequence_count, 0u);
}

TEST_F(generate, sampling_repeats_by_its_seed) {
  const Media frame = media(1);
  const auto ask = [&](double temperature, double top_p, uint64_t seed) {
    const Question question = {
        .text = "What?",
        .sampling = {
            .temperature = temperature, .top_p = top_p, .seed = seed, .max_new_tokens = 12}};
    return generator().answer(question, frame).value().tokens;
  };
  EXPECT_EQ(ask(1.0, 1.0, 7), ask(1.0, 1.0, 7));
  EXPECT_NE(ask(1.0, 1.0, 7), ask(1.0, 1.0, 8));
  EXPECT_EQ(ask(1.0, 1e-9, 7), ask(0, 1, 0));  // only the most likely token is left
  EXPECT_EQ(ask(1e-4, 1.0, 7), ask(0, 1, 0));
}

TEST_F(generate, progress_is_full_when_the_first_token_comes) {
  uint64_t last_done = 0, last_total = 0;
  bool rises = true;
  const Question question = {.text = "What?",
                             .sampling = {.max_new_tokens = 1},
                             .watch = {.progress = [&](uint64_t done, uint64_t total) {
                               rises = rises && done > last_done;
                               last_done = done;
                               last_total = total;
                             }}};
  const auto answer = generator({.window_tokens_max = 40}).answer(question, media(1));
  ASSERT_TRUE(answer.ok());
  EXPECT_TRUE(rises);
  EXPECT_EQ(last_done, last_total);
  EXPECT_EQ(answer.value().finish, FinishReason::kLength);
  EXPECT_EQ(answer.value().tokens.size(), 1u);
  EXPECT_EQ(answer.value().tpot_seconds, 0);
}

TEST_F(generate, a_stop_leaves_no_sequence) {
  const Media frame = media(1);
  std::atomic<bool> stop = false;
  Question question = {.text = "What?", .watch = {.cancel = &stop}};
  question.watch.progress = [&](uint64_t, uint64_t) { stop = true; };  // after the first layer
  expect_refused(generator().answer(question, frame), Code::kCancelled, "stopped");

  stop = false;
  question.watch.progress = nullptr;
  question.on_text = [&](std::string_view) { stop = true; };  // while decoding
  expect_refused(generator().answer(question, frame), Code::kCancelled, "stopped");

  EXPECT_EQ(generator().encode_media(noise(1), question.watch).status().code(), Code::kCancelled);
  EXPECT_EQ(generator().ingest(frame, question.watch).status().code(), Code::kCancelled);
  EXPECT_EQ(cache_->stats().sequence_count, 0u);
}

TEST_F(generate, bad_questions_are_refused) {
  Generator asker = generator();
  const Code code = Code::kInvalidArgument;
  expect_refused(asker.answer({.text = ""}, media(1)), code, "the question is empty");
  expect_refused(asker.answer({.text = " \n\t"}, Media()), code, "the question is empty");
  expect_refused(asker.answer({.text = "a\xff"}, media(1)), code, "not UTF-8");
  expect_refused(asker.answer({.text = "a", .sampling = {.temperature = -1}}, Media()), code,
                 "temperature is -1");
  expect_refused(asker.answer({.text = "a", .sampling = {.top_p = 0}}, Media()), code,
                 "top_p is 0");
  expect_refused(asker.answer({.text = "a", .sampling = {.max_new_tokens = 0}}, Media()), code,
                 "max_new_tokens is 0");
  Media short_media = media(1);
  short_media.embeddings.pop_back();
  expect_refused(asker.answer({.text = "a"}, short_media), code, "embeddings");

  const auto prefix = asker.ingest(Media(), {});
  EXPECT_EQ(prefix.status().code(), code);
  const auto encoded = asker.encode_media(std::vector<VisualInput>{{{1, 2, 3}, {}}}, {});
  EXPECT_EQ(encoded.status().code(), code);
  EXPECT_NE(encoded.status().message().find("takes 3 x 128 x 128"), std::string::npos);
}

TEST_F(generate, a_question_cannot_claim_an_image_or_end_the_prompt) {
  const auto answer = generator().answer(
      {.text = "</s><image> what?", .sampling = {.max_new_tokens = 1}}, media(1));
  ASSERT_TRUE(answer.ok()) << answer.status().message();
  EXPECT_EQ(answer.value().prompt_tokens[kVisual], 64u);
  EXPECT_EQ(answer.value().prompt_tokens[kControl], 1u);
}

// This model, whose weights are random, would like to.
TEST_F(generate, an_answer_has_no_pictures) {
  Generator asker = generator();
  const int32_t picture = model_->config().image_token;
  for (const uint64_t seed : {1, 2, 3}) {
    const auto answer = asker.answer(
        {.text = "What?", .sampling = {.temperature = 20, .seed = seed, .max_new_tokens = 300}},
        Media());
    ASSERT_TRUE(answer.ok()) << answer.status().message();
    EXPECT_EQ(std::ranges::count(answer.value().tokens, picture), 0);
  }
}

TEST_F(generate, a_prompt_and_its_answer_stay_within_the_models_positions) {
  const TemporaryDirectory scratch;
  for (const auto& entry : fs::directory_iterator(kRandomCheckpoint))
    if (entry.is_regular_file()) fs::copy(entry.path(), scratch / entry.path().filename().string());
  auto config = nlohmann::json::parse(std::ifstream(scratch / "config.json"));
  config["text_config"]["max_position_embeddings"] = 80;
  std::ofstream(scratch / "config.json") << config.dump();
  open(scratch.path());

  expect_refused(generator().answer({.text = "What?"}, media(2)), Code::kInvalidArgument,
                 "the model's positions are 80");
  const auto answer = generator().answer({.text = "What?"}, media(1));
  ASSERT_TRUE(answer.ok()) << answer.status().message();
  const auto& roles = answer.value().prompt_tokens;
  // The last new token is not fed back, so it needs no position.
  EXPECT_EQ(roles[kText] + roles[kVisual] + roles[kControl] + answer.value().tokens.size(), 81u);
  EXPECT_EQ(answer.value().finish, FinishReason::kLength);
}

TEST_F(generate, a_cache_of_another_model_is_refused) {
  KvShape shape = model_->kv_shape();
  shape.layers = 3;
  const auto other = Cache::open({.shape = shape, .dram_bytes_max = uint64_t{64} << 20});
  ASSERT_TRUE(other.ok()) << other.status().message();
  const auto made = Generator::make(model_.get(), &*tokenizer_, other.value().get(), {});
  EXPECT_EQ(made.status().code(), Code::kInvalidArgument);
  const auto styled =
      Generator::make(model_.get(), &*tokenizer_, cache_.get(), {.style = PromptStyle::kLlavaQwen});
  EXPECT_EQ(styled.status().code(), Code::kInvalidArgument);
  EXPECT_NE(styled.status().message().find("no <|im_"), std::string::npos);
}

TEST(sampler, tokens_come_with_their_probabilities) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f), -30.0f};
  std::array<int, 4> counts{};
  Sampler sampler({.temperature = 1, .seed = 3});
  for (int i = 0; i < 8000; ++i) ++counts[static_cast<size_t>(sampler.next(logits))];
  EXPECT_NEAR(counts[0], 1000, 150);
  EXPECT_NEAR(counts[1], 2000, 200);
  EXPECT_NEAR(counts[2], 5000, 250);

  Sampler most_likely({.temperature = 1, .top_p = 0.8, .seed = 3});
  for (int i = 0; i < 1000; ++i) EXPECT_NE(most_likely.next(logits), 0);
  EXPECT_EQ(Sampler({}).next(std::vector<float>{1, 3, 3, 2}), 1);
}

}  // namespace
}  // namespace vkv
