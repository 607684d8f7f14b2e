// comparison_test.cpp: teacher-forced comparison on TinyVLM: exact agrees with itself, filling a
// cache from a recording is the same as running the model, and damage shows.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/comparison.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/llava_golden.h"
#include "tools/mllm/media.h"
#include "tools/quality/configuration.h"
#include "tools/quality/metrics.h"

namespace vkv {
namespace {

constexpr int kRecent = 32;

class comparison : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_ = Model::load(kTinyVlm + "model", {.threads = 2}).value().release();
    tokenizer_ = new Tokenizer(std::move(Tokenizer::load(kTinyVlm + "model").value()));
    processor_ = new MediaProcessor(MediaProcessor::load(kTinyVlm + "model").value());
  }
  static void TearDownTestSuite() {
    delete model_;
    delete tokenizer_;
    delete processor_;
  }

  static std::unique_ptr<Cache> open(const std::string& name) {
    Result<std::unique_ptr<Cache>> cache =
        open_cache(parse_configuration(name).value(),
                   {.shape = model_->kv_shape(), .recent_tokens = kRecent, .threads = 1});
    EXPECT_TRUE(cache.ok()) << cache.status().message();
    return std::move(cache.value());
  }

  // Two questions about a picture of the evaluation set.
  static Job picture() {
    Job job;
    job.id = "picture";
    job.images = {"images/easy_vqa_0812.png"};
    job.questions = {{"what color is the triangle?", "yellow", "color"},
                     {"is there not a triangle?", "no", "yes/no"}};
    job.folder = kTinyVlm + "eval";
    return job;
  }

  static std::vector<QualityItem> items(const Job& job, QuestionView view) {
    auto result = items_of_job(job, *model_, *tokenizer_, processor_, {.view = view}, {});
    EXPECT_TRUE(result.ok()) << result.status().message();
    return std::move(result.value());
  }

  struct Runs {
    ReferenceRun reference;
    std::vector<CaseResult> results;
  };
  static Runs compare(const QualityItem& item, const std::string& name) {
    const Comparison comparer(model_, tokenizer_, {});
    RecordingCache exact(open("exact"));
    const std::unique_ptr<Cache> cache = open(name);
    Result<ReferenceRun> reference = comparer.run_reference(exact, item);
    EXPECT_TRUE(reference.ok()) << reference.status().message();
    Result<std::vector<CaseResult>> results = comparer.run_test(*cache, item, reference.value());
    EXPECT_TRUE(results.ok()) << results.status().message();
    EXPECT_EQ(exact.stats().sequence_count + cache->stats().sequence_count, 0u);
    return {std::move(reference.value()), std::move(results.value())};
  }

  static inline Model* model_;
  static inline Tokenizer* tokenizer_;
  static inline MediaProcessor* processor_;
};

TEST_F(comparison, exact_agrees_with_itself_and_knows_the_answers) {
  for (const QuestionView view : {QuestionView::kShared, QuestionView::kWindow}) {
    for (const QualityItem& item : items(picture(), view)) {
      const Runs runs = compare(item, "exact");
      for (size_t i = 0; i < item.cases.size(); ++i) {
        const CaseResult& result = runs.results[i];
        EXPECT_EQ(result.right, true);
        EXPECT_EQ(result.answer_count, 2u);  // a word and the end
        EXPECT_EQ(result.match_count, 2u);
        EXPECT_EQ(result.agreed, 2u);
        for (const float kl : result.kl) EXPECT_LT(kl, 1e-6);
        for (const float error : result.layer_error) EXPECT_LT(error, 1e-5);
        EXPECT_GT(result.visual.bits_per_value(), 16);
      }
      EXPECT_EQ(runs.results[0].layer_error.size(), 6u);
    }
  }
}

TEST_F(comparison, views_differ_in_where_the_question_stands) {
  const auto shared = items(picture(), QuestionView::kAuto);
  ASSERT_EQ(shared.size(), 1u);
  ASSERT_EQ(shared[0].cases.size(), 2u);
  EXPECT_EQ(shared[0].prefix.tokens.size(), 257u);
  const auto windows = items(picture(), QuestionView::kWindow);
  ASSERT_EQ(windows.size(), 2u);
  EXPECT_EQ(windows[0].visual, windows[1].visual);
  EXPECT_EQ(windows[0].cases[0].tail.tokens.size(), 1u);
  Job single = picture();
  single.questions.pop_back();
  EXPECT_EQ(items(single, QuestionView::kAuto)[0].prefix.tokens, windows[0].prefix.tokens);
  single.images.clear();
  EXPECT_GT(items(single, QuestionView::kAuto)[0].prefix.tokens.size(), 3u);
}

TEST_F(comparison, a_recording_fills_a_cache_as_the_model_does) {
  const QualityItem item = items(picture(), QuestionView::kShared)[0];
  RecordingCache exact(open("exact"));
  const Comparison comparer(model_, tokenizer_, {});
  const ReferenceRun reference = comparer.run_reference(exact, item).value();
  for (const char* name : {"visual2", "i2"}) {
    std::vector<float> logits[2];
    for (const bool replayed : {false, true}) {
      const std::unique_ptr<Cache> cache = open(name);
      const SequenceId sequence = cache->create_sequence().value();
      if (replayed) {
        ASSERT_TRUE(replay(reference.prefix, *cache, sequence, true).ok());
      } else {
        ASSERT_TRUE(model_
                        ->forward(*cache,
                                  {.sequence = sequence,
                                   .tokens = item.prefix.tokens,
                                   .roles = item.prefix.roles,
                                   .visual = *item.visual,
                                   .logit_count = 0,
                                   .ends_window = true},
                                  {})
                        .ok());
      }
      const PromptTokens& tail = item.cases[0].tail;
      logits[replayed ? 1 : 0] =
          model_
              ->forward(*cache,
                        {.sequence = sequence,
                         .position = 257,
                         .tokens = tail.tokens,
                         .roles = tail.roles,
                         .logit_count = static_cast<int>(tail.tokens.size())},
                        {})
              .value();
    }
    EXPECT_LT(relative_error(logits[0], logits[1]), 1e-5) << name;
  }
}

TEST_F(comparison, the_simulator_and_the_real_cache_give_the_same_logits) {
  const QualityItem item = items(picture(), QuestionView::kShared)[0];
  for (const char* name : {"i4", "i1", "visual2", "onebit"}) {
    const Runs real = compare(item, name), simulated = compare(item, std::string("sim:") + name);
    for (size_t i = 0; i < item.cases.size(); ++i) {
      ASSERT_EQ(real.results[i].kl.size(), simulated.results[i].kl.size());
      for (size_t p = 0; p < real.results[i].kl.size(); ++p)
        EXPECT_NEAR(real.results[i].kl[p], simulated.results[i].kl[p],
                    1e-5 + 1e-3 * real.results[i].kl[p])
            << name;
    }
  }
}

TEST_F(comparison, fewer_bits_cost_more_and_damage_shows_in_the_layers) {
  const QualityItem item = items(picture(), QuestionView::kShared)[0];
  double last = 0;
  for (const char* name : {"i8", "i4", "i2", "quantile1:0.25"}) {
    const Runs runs = compare(item, name);
    const std::vector<float>& errors = runs.results[0].layer_error;
    const double error = *std::max_element(errors.begin(), errors.end());
    EXPECT_GT(error, last) << name;
    last = error;
  }
}

TEST_F(comparison, a_cache_that_loses_its_media_gives_answers_of_its_own) {
  Job job = picture();
  job.images.clear();
  job.video = "videos/video_00_8_frames.mp4";
  job.questions = {{"What is in frame 05?", "red square", "frame"}};
  if (!load_video(job.folder / job.video, job.video_sampling).ok()) GTEST_SKIP() << "no FFmpeg";
  const Runs good = compare(items(job, QuestionView::kShared)[0], "i8");
  const Runs blank = compare(items(job, QuestionView::kShared)[0], "blank");
  EXPECT_EQ(good.results[0].match_count, good.results[0].answer_count);
  EXPECT_GT(blank.results[0].kl[0], 100 * good.results[0].kl[0]);
  EXPECT_GT(blank.results[0].kl[0], 0.1);
  EXPECT_EQ(blank.results[0].match_count, 0u);
  EXPECT_EQ(blank.results[0].right, false);
}

TEST_F(comparison, passages_of_text_compare_every_tail_token) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "what color is the red circle in frame 07? ";
  const PassageOptions options = {
      .token_count = 200, .tail_count = 50, .passages_max = 2, .new_tokens_max = 4};
  const auto passages = passages_of_text(text, *tokenizer_, options);
  ASSERT_TRUE(passages.ok()) << passages.status().message();
  ASSERT_EQ(passages.value().size(), 2u);
  const Runs runs = compare(passages.value()[1], "i4");
  EXPECT_EQ(runs.results[0].kl.size(), 49 + runs.results[0].answer_count);
  EXPECT_LT(runs.results[0].all.bits_per_value(), 12);
  EXPECT_FALSE(runs.results[0].right.has_value());
  EXPECT_FALSE(passages_of_text("too short", *tokenizer_, options).ok());
  EXPECT_FALSE(passages_of_text(text, *tokenizer_, {.token_count = 50, .tail_count = 50}).ok());
}

TEST_F(comparison, a_question_reads_originals_and_promotes_what_it_looks_at) {
  const QualityItem item = items(picture(), QuestionView::kShared)[0];
  const Runs without = compare(item, "onebit"), with = compare(item, "onebit+originals");
  for (size_t layer = 0; layer < with.results[0].layer_error.size(); ++layer) {
    const float error = with.results[0].layer_error[layer];
    EXPECT_LT(error, 1e-3) << layer;
    EXPECT_GT(without.results[0].layer_error[layer], 3 * error) << layer;
  }
  for (size_t i = 0; i < item.cases.size(); ++i) {
    const RoleStats& visual = with.results[i].visual;
    EXPECT_GT(visual.original_bits, 10 * visual.value_count);
    EXPECT_GT(visual.promoted_value_count, 0u);
    EXPECT_LT(visual.bits_per_value(), 6);
    EXPECT_EQ(without.results[i].visual.original_bits, 0u);
  }
}

TEST_F(comparison, originals_are_kept_by_each_question_for_itself) {
  // The second question's promotion does not depend on the first one's.
  const QualityItem both = items(picture(), QuestionView::kShared)[0];
  QualityItem second = both;
  second.cases.erase(second.cases.begin());
  const Runs runs = compare(both, "extreme+originals"),
             alone = compare(second, "extreme+originals");
  EXPECT_EQ(runs.results[1].kl, alone.results[0].kl);
}

TEST_F(comparison, a_tail_that_ends_its_prefix_reads_codes_even_with_originals) {
  const QualityItem item = items(picture(), QuestionView::kWindow)[0];
  EXPECT_FALSE(item.tail_is_window);
  const Runs runs = compare(item, "onebit+originals");
  for (const float error : runs.results[0].layer_error) EXPECT_GT(error, 1e-2);
  EXPECT_GT(runs.results[0].visual.promoted_value_count, 0u);
}

}  // namespace
}  // namespace vkv
