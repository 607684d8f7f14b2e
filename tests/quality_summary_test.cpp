// quality_summary_test.cpp: sums, verdicts and the report; a broken configuration fails its gate.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/quality_summary.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/llava_golden.h"
#include "tools/mllm/media.h"
#include "tools/quality/quality_report.h"
#include "tools/vkv/html.h"

namespace vkv {
namespace {

CaseResult one_case(std::vector<float> kl, uint32_t agreed, uint32_t match, bool right) {
  CaseResult result{.kl = std::move(kl), .agreed = agreed, .match_count = match, .right = right};
  result.answer_count = static_cast<uint32_t>(result.kl.size());
  result.visual = {
      .value_count = 100, .stored_bits = 500, .sealed_value_count = 80, .sealed_stored_bits = 180};
  result.all = {
      .value_count = 200, .stored_bits = 2100, .sealed_value_count = 80, .sealed_stored_bits = 180};
  return result;
}

SourceResult one_source(CaseResult result, bool reference_right, const std::string& group) {
  SourceResult source;
  source.rows.push_back({.group = group, .reference_right = reference_right});
  source.rows.back().results.push_back(std::move(result));
  return source;
}

const Configuration kI4 = parse_configuration("i4").value();

TEST(summarize, adds_up_cases_as_by_hand) {
  std::vector<SourceResult> results;
  results.push_back(one_source(one_case({0.0f, 0.02f}, 2, 2, true), true, "image"));
  results.push_back(one_source(one_case({0.04f, 0.06f}, 1, 1, false), true, "image"));
  results.push_back(one_source(one_case({0.5f, 3.5f}, 0, 0, true), false, "video"));
  results.push_back({.error = "no such file"});
  results[0].rows[0].results[0].layer_error = {0.1f, 0.3f};
  results[1].rows[0].results[0].layer_error = {0.3f, 0.1f};
  const ConfigurationSummary summary = summarize(results, 0, kI4);
  EXPECT_EQ(summary.case_count, 3u);
  EXPECT_EQ(summary.position_count, 6u);
  EXPECT_NEAR(summary.kl_mean, 4.12 / 6, 1e-6);
  EXPECT_FLOAT_EQ(static_cast<float>(summary.kl_max), 3.5f);
  EXPECT_DOUBLE_EQ(summary.top1, 0.5);
  EXPECT_DOUBLE_EQ(summary.match, 0.5);
  EXPECT_NEAR(summary.same_answer, 1.0 / 3, 1e-12);
  EXPECT_NEAR(summary.catastrophic, 1.0 / 3, 1e-12);  // 2 is above 10 times 0.05
  EXPECT_EQ(summary.answers.total(), 3u);
  EXPECT_EQ(summary.answers.right, 2u);
  EXPECT_EQ(summary.answers.paired.only_reference, 1u);
  EXPECT_EQ(summary.answers.paired.only_test, 1u);
  EXPECT_DOUBLE_EQ(summary.visual_bits, 5);
  EXPECT_DOUBLE_EQ(summary.visual_encoded_bits, 2.25);
  EXPECT_DOUBLE_EQ(summary.visual_encoded_share, 0.8);
  EXPECT_DOUBLE_EQ(summary.all_bits, 10.5);
  EXPECT_NEAR(summary.layer_error[0], 0.2, 1e-6);
  EXPECT_NEAR(summary.groups.at("image").kl_mean, 0.03, 1e-6);
  EXPECT_EQ(summary.groups.at("video").answers.total(), 1u);
  EXPECT_EQ(summary.verdict, Verdict::kFail);
}

TEST(summarize, originals_are_counted_beside_the_bits) {
  CaseResult result = one_case({0.0f}, 1, 1, true);
  result.visual.original_bits = 1200;
  result.visual.promoted_value_count = 10;
  Configuration kept = parse_configuration("extreme+originals").value();
  const ConfigurationSummary with = summarize({{one_source(result, true, "image")}}, 0, kept);
  EXPECT_DOUBLE_EQ(with.visual_original_bits, 12);
  EXPECT_DOUBLE_EQ(with.visual_promoted_share, 0.1);
  EXPECT_DOUBLE_EQ(with.visual_bits, 5);
  EXPECT_EQ(with.gate, nullptr);
  const std::string table = quality_table({}, {{with}});
  EXPECT_NE(table.find("originals in DRAM"), std::string::npos) << table;
  EXPECT_NE(table.find("12.00 bits a visual value; 10.00 % of them promoted"), std::string::npos);
  EXPECT_EQ(quality_json({}, {{with}})["configurations"][0]["bits"]["visual_originals"], 12);
}

TEST(summarize, small_divergences_are_no_catastrophe) {
  std::vector<SourceResult> results;
  for (const float kl : {1e-9f, 1e-9f, 1e-4f})
    results.push_back(one_source(one_case({kl}, 1, 1, true), true, "image"));
  EXPECT_EQ(summarize(results, 0, kI4).catastrophic, 0);
}

// A summary of `total` questions, of which some were lost.
ConfigurationSummary summary_of(double kl, double top1, uint64_t total, uint64_t lost) {
  ConfigurationSummary summary{.position_count = 10, .kl_mean = kl, .top1 = top1};
  summary.answers.paired = {.total = total, .only_reference = lost};
  return summary;
}

TEST(judge, accuracy_passes_only_by_the_whole_interval) {
  const Gate& gate = *gate_of("i4");  // .01, 97 %, half a point
  const auto verdict = [&](uint64_t total, uint64_t lost) {
    ConfigurationSummary summary = summary_of(0, 1, total, lost);
    judge(gate, summary);
    return summary.drop_verdict;
  };
  EXPECT_EQ(verdict(5000, 0), Verdict::kPass);
  EXPECT_EQ(verdict(100, 0), Verdict::kOpen);
  EXPECT_EQ(verdict(5000, 20), Verdict::kOpen);  // 0.4 points, up to 0.62
  EXPECT_EQ(verdict(5000, 26), Verdict::kFail);  // 0.52 points
  EXPECT_EQ(verdict(0, 0), Verdict::kNone);
}

TEST(judge, the_worst_verdict_is_that_of_the_gate) {
  const auto verdict = [](double kl, double top1, uint64_t total) {
    ConfigurationSummary summary = summary_of(kl, top1, total, 0);
    judge(*gate_of("visual2"), summary);
    return summary.verdict;
  };
  EXPECT_EQ(verdict(.03, .95, 5000), Verdict::kPass);
  EXPECT_EQ(verdict(.0301, .95, 5000), Verdict::kFail);
  EXPECT_EQ(verdict(.03, .949, 5000), Verdict::kFail);
  EXPECT_EQ(verdict(.03, .95, 50), Verdict::kOpen);
  EXPECT_EQ(verdict(.03, .95, 0), Verdict::kPass);  // text: accuracy has no say
  EXPECT_EQ(gate_of("kivi2"), nullptr);
  EXPECT_EQ(gate_of("balanced"), gate_of("i4"));
}

class evaluation : public testing::Test {
 protected:
  evaluation() {
    jobs_ = read_jobs(kTinyVlm + "eval/jobs.jsonl", {.sampling = {.max_new_tokens = 8}}).value();
  }

  // The first `count` jobs with pictures.
  std::vector<ItemSource> pictures(size_t count) const {
    std::vector<ItemSource> sources;
    for (const JobLine& line : jobs_)
      if (sources.size() < count && !line.job.value().images.empty())
        sources.push_back({.job = &line.job.value()});
    return sources;
  }

  static std::unique_ptr<Evaluation> open(int threads) {
    return std::move(
        Evaluation::open(
            {.model_folder = kTinyVlm + "model", .recent_tokens = 16, .threads = threads})
            .value());
  }

  std::vector<JobLine> jobs_;
};

TEST_F(evaluation, a_good_configuration_passes_and_a_broken_one_fails_its_gate) {
  if (!load_image(kTinyVlm + "eval/" + pictures(1)[0].job->images[0]).ok())
    GTEST_SKIP() << "no FFmpeg";
  const auto list = parse_configurations("exact,i8,i4,blank").value();
  const auto sources = pictures(4);
  const auto results = open(2)->run(sources, list, {});
  ASSERT_TRUE(results.ok()) << results.status().message();
  std::vector<ConfigurationSummary> summaries;
  for (size_t i = 0; i < list.size(); ++i)
    summaries.push_back(summarize(results.value(), i, list[i]));
  for (const size_t good : {1u, 2u}) {
    EXPECT_EQ(summaries[good].kl_verdict, Verdict::kPass);
    EXPECT_EQ(summaries[good].top1_verdict, Verdict::kPass);
    EXPECT_NE(summaries[good].verdict, Verdict::kFail);
  }
  EXPECT_LT(summaries[1].kl_mean, summaries[2].kl_mean);
  EXPECT_LT(summaries[0].kl_mean, 1e-9);
  judge(*gate_of("visual1"), summaries[3]);  // the widest gate there is
  EXPECT_EQ(summaries[3].verdict, Verdict::kFail);
  EXPECT_EQ(summaries[3].kl_verdict, Verdict::kFail);

  // The number of workers changes nothing.
  const auto alone = open(1)->run(sources, list, {});
  ASSERT_TRUE(alone.ok());
  for (size_t s = 0; s < sources.size(); ++s)
    for (size_t r = 0; r < alone.value()[s].rows.size(); ++r)
      for (size_t i = 0; i < list.size(); ++i)
        EXPECT_EQ(alone.value()[s].rows[r].results[i].kl, results.value()[s].rows[r].results[i].kl);
}

TEST_F(evaluation, parameters_are_chosen_by_the_lowest_divergence) {
  if (!load_image(kTinyVlm + "eval/" + pictures(1)[0].job->images[0]).ok())
    GTEST_SKIP() << "no FFmpeg";
  auto list = parse_configurations("quantile2,lambda1,i8").value();
  const auto runner = open(2);
  const auto sources = pictures(1);
  ASSERT_TRUE(runner->calibrate(sources, list, {}).ok());
  for (const Configuration& one : list) EXPECT_FALSE(one.needs_calibration());
  ASSERT_EQ(list[1].scheme->lambda->size(), 24u);
  auto rivals = parse_configurations("quantile2:0,quantile2:0.05,quantile2:0.25").value();
  rivals.push_back(list[0]);
  const auto results = runner->run(sources, rivals, {});
  ASSERT_TRUE(results.ok());
  for (size_t i = 0; i < 3; ++i)
    EXPECT_LE(mean_kl(results.value(), 3), mean_kl(results.value(), i));
  EXPECT_FALSE(
      runner->calibrate({}, list = parse_configurations("kivi2,lambda1").value(), {}).ok());
}

TEST_F(evaluation, kept_references_give_what_a_run_gives) {
  if (!load_image(kTinyVlm + "eval/" + pictures(1)[0].job->images[0]).ok())
    GTEST_SKIP() << "no FFmpeg";
  const auto list = parse_configurations("onebit,i2").value();
  const auto runner = open(2);
  const auto sources = pictures(2);  // of fewer questions than the first few that count
  const auto results = runner->run(sources, list, {}).value();
  KeptReferences kept;
  const auto first = runner->mean_kls(sources, {&list[0], 1}, kept, {}).value();
  EXPECT_GT(kept.byte_count.load(), 1u << 20);
  const uint64_t byte_count = kept.byte_count.load();
  const auto second = runner->mean_kls(sources, list, kept, {}).value();
  EXPECT_EQ(kept.byte_count.load(), byte_count);
  EXPECT_EQ(first[0], mean_kl(results, 0));
  EXPECT_EQ(second[0], mean_kl(results, 0));
  EXPECT_EQ(second[1], mean_kl(results, 1));

  Job broken = jobs_[0].job.value();
  broken.images = {"images/gone.png"};
  const ItemSource gone = {.job = &broken};
  KeptReferences none;
  EXPECT_FALSE(runner->mean_kls({&gone, 1}, list, none, {}).ok());
}

TEST_F(evaluation, a_job_that_fails_is_named_and_the_others_go_on) {
  Job broken = jobs_[0].job.value();
  broken.images = {"images/gone.png"};
  auto sources = pictures(1);
  sources.push_back({.job = &broken});
  const auto list = parse_configurations("i8").value();
  const auto results = open(2)->run(sources, list, {});
  ASSERT_TRUE(results.ok());
  EXPECT_NE(results.value()[1].error.find("gone.png"), std::string::npos);
  EXPECT_TRUE(results.value()[1].rows.empty());

  const std::atomic<bool> cancel = true;
  std::vector<SourceResult> partial;
  const auto stopped = open(1)->run(sources, list, {.cancel = &cancel}, &partial);
  EXPECT_EQ(stopped.status().code(), Code::kCancelled);
  EXPECT_EQ(partial.size(), 2u);
}

TEST(quality_report, escapes_every_string_and_loads_nothing) {
  QualityFacts facts = {.model = "<b>m</b>", .data = "a&b\"'.jsonl", .view = "auto"};
  ConfigurationSummary summary{.name = "</script><script>alert(1)", .detail = "<i>"};
  summary.kl_mean = 0.5;
  summary.layer_error = {0.01, 1};
  summary.groups["<img src=x>"] = {};
  const std::vector<ConfigurationSummary> summaries = {summary};
  const std::string page = quality_report(facts, summaries, "var chart;");
  for (const char* bad : {"<b>m", "<script>alert", "<i>", "<img", "</script><script>alert",
                          "src=\"", "href=", "http:"})
    EXPECT_EQ(page.find(bad), std::string::npos) << bad;
  EXPECT_NE(page.find("&lt;b&gt;m&lt;/b&gt;"), std::string::npos);
  EXPECT_NE(page.find("a&amp;b&quot;&#39;.jsonl"), std::string::npos);
  EXPECT_NE(page.find("var chart;"), std::string::npos);
  EXPECT_NE(quality_report(facts, summaries, "").find("libjs-chart.js"), std::string::npos);
  EXPECT_EQ(escape_html("<>&\"'x"), "&lt;&gt;&amp;&quot;&#39;x");
}

TEST(quality_table, says_what_failed_and_json_has_the_same) {
  ConfigurationSummary summary = summary_of(0.5, 0.5, 5000, 100);
  summary.name = "i4";
  judge(*gate_of("i4"), summary);
  const std::vector<ConfigurationSummary> summaries = {summary};
  const QualityFacts facts = {.model = "m", .interrupted = true};
  const std::string table = quality_table(facts, summaries);
  EXPECT_NE(table.find("I4 FAIL: KL, top-1, accuracy"), std::string::npos) << table;
  EXPECT_NE(table.find("INTERRUPTED"), std::string::npos);
  const nlohmann::json json = quality_json(facts, summaries);
  EXPECT_EQ(json["configurations"][0]["gate"]["verdict"], "FAIL");
  EXPECT_EQ(json["configurations"][0]["answers"]["drop"], 0.02);
}

}  // namespace
}  // namespace vkv
