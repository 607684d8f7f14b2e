// quality_table.cpp: the summary as text and as JSON.
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "tools/quality/quality_summary.h"

namespace vkv {
namespace {

using Json = nlohmann::json;

// The control (scheme.h) below this KL: the data say nothing of what is encoded.
constexpr double kControlKl = 0.1;

template <class... Arguments>
void line(std::string& text, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  fmt::format_to(std::back_inserter(text), format, std::forward<Arguments>(arguments)...);
  text += '\n';
}

double percent(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 100 * static_cast<double>(part) / static_cast<double>(whole);
}

std::string interval_text(const Interval& interval) {
  return fmt::format("[{:.2f}, {:.2f}]", 100 * interval.low, 100 * interval.high);
}

std::string drop_text(const Answers& answers) {
  if (answers.total() == 0) return "-";
  return fmt::format("{:.2f} {}", 100 * answers.paired.drop(),
                     interval_text(paired_interval(answers.paired)));
}

std::string right_text(const Answers& answers) {
  if (answers.total() == 0) return "-";
  return fmt::format("{:.2f} {}", percent(answers.right, answers.total()),
                     interval_text(wilson_interval(answers.right, answers.total())));
}

// "PASS", or "FAIL: KL, accuracy".
std::string verdict_text(const ConfigurationSummary& summary) {
  if (summary.gate == nullptr) return "";
  std::string text = fmt::format("{} {}", summary.gate->name, name(summary.verdict));
  std::string_view separator = ": ";
  for (const auto& [verdict, what] : {std::pair{summary.kl_verdict, "KL"},
                                      {summary.top1_verdict, "top-1"},
                                      {summary.drop_verdict, "accuracy"}}) {
    if (summary.verdict == Verdict::kPass || verdict != summary.verdict) continue;
    text += fmt::format("{}{}", separator, what);
    separator = ", ";
  }
  return text;
}

void append_head(std::string& text, const QualityFacts& facts,
                 std::span<const ConfigurationSummary> summaries) {
  line(text, "model        {}", facts.model);
  line(text, "data         {}: {} items, {} questions or passages, {} positions{}", facts.data,
       facts.source_count, summaries.front().case_count, summaries.front().position_count,
       facts.failure_count > 0 ? fmt::format(", {} items failed", facts.failure_count) : "");
  if (facts.calibration_count > 0)
    line(text, "calibration  {} other items chose the parameters of baselines",
         facts.calibration_count);
  line(text, "stored       {} newest tokens at 16 bit; questions: {}", facts.recent_tokens,
       facts.view);
  const Answers& answers = summaries.front().answers;
  if (answers.total() > 0)
    line(text, "reference    {:.2f} % right ({} of {}), all at 16 bit",
         percent(answers.reference_right, answers.total()), answers.reference_right,
         answers.total());
  line(text, "time         {:.1f} s{}", facts.seconds,
       facts.interrupted ? ", INTERRUPTED: of what was done until then" : "");
}

void append_rows(std::string& text, std::span<const ConfigurationSummary> summaries) {
  size_t width = 13;
  for (const ConfigurationSummary& summary : summaries)
    width = std::max(width, summary.name.size());
  line(text, "");
  line(text, "{:<{}} {:>23} {:>29} {:>8} {:>8} {:>7} {:>6}", "", width, "visual bits a value",
       "KL(exact || this), nats", "same", "same", "match", "catas-");
  line(text,
       "{:<{}} {:>7} {:>8} {:>6} {:>10} {:>9} {:>8} {:>8} {:>8} {:>7} {:>6}  {:<22} {:<22} {}",
       "configuration", width, "all", "encoded", "total", "mean", "p99", "max", "top-1 %",
       "answer %", "tokens", "tr. %", "right % [95 %]", "lost points [95 %]", "gate");
  for (const ConfigurationSummary& s : summaries)
    line(text,
         "{:<{}} {:>7.2f} {:>8.2f} {:>6.2f} {:>10.2e} {:>9.2e} {:>8.2g} {:>8.2f} {:>8.2f} {:>7.2f} "
         "{:>6.2f}"
         "  {:<22} {:<22} {}",
         s.name, width, s.visual_bits, s.visual_encoded_bits, s.all_bits, s.kl_mean, s.kl_p99,
         s.kl_max, 100 * s.top1, 100 * s.same_answer, s.match_tokens, 100 * s.catastrophic,
         right_text(s.answers), drop_text(s.answers), verdict_text(s));
}

// KL, and points lost, where there are several kinds of media.
void append_groups(std::string& text, std::span<const ConfigurationSummary> summaries) {
  const auto& groups = summaries.front().groups;
  if (groups.size() < 2) return;
  line(text, "");
  std::string heads;
  for (const auto& [media, group] : groups)
    heads += fmt::format(" {:>20}", fmt::format("{} ({})", media, group.answers.total()));
  line(text, "{:<24}{}", "KL mean, points lost", heads);
  for (const ConfigurationSummary& s : summaries) {
    std::string cells;
    for (const auto& [media, group] : s.groups)
      cells += fmt::format(" {:>12.2e} {:>7.2f}", group.kl_mean, 100 * group.answers.paired.drop());
    line(text, "{:<24}{}", s.name, cells);
  }
}

void append_layers(std::string& text, std::span<const ConfigurationSummary> summaries) {
  const size_t layers = summaries.front().layer_error.size();
  if (layers == 0 || layers > 16) return;  // a large model's go to the report
  line(text, "");
  std::string heads;
  for (size_t layer = 0; layer < layers; ++layer) heads += fmt::format(" {:>8}", layer);
  line(text, "{:<24}{}", "attention error, layer", heads);
  for (const ConfigurationSummary& s : summaries) {
    std::string cells;
    for (const double error : s.layer_error) cells += fmt::format(" {:>8.4f}", error);
    line(text, "{:<24}{}", s.name, cells);
  }
}

void append_notes(std::string& text, std::span<const ConfigurationSummary> summaries) {
  std::string details, originals;
  bool simulated = false;
  for (const ConfigurationSummary& s : summaries) {
    if (s.keeps_originals)
      originals += fmt::format("  {:<22} {:.2f} bits a visual value; {:.2f} % of them promoted\n",
                               s.name, s.visual_original_bits, 100 * s.visual_promoted_share);
    if (!s.detail.empty()) details += fmt::format("  {:<22} {}\n", s.name, s.detail);
    simulated |= s.simulated;
  }
  if (!details.empty()) text += "\nchosen on the calibration items\n" + details;
  if (!originals.empty())
    text += "\noriginals in DRAM, read once a question and not in the bits above\n" + originals;
  line(text, "");
  if (simulated)
    line(text,
         "Baselines run in a simulated cache: the old visual tokens go through the scheme, "
         "text and recent tokens stay at 16 bit.");
  for (const ConfigurationSummary& s : summaries)
    if (s.name == "blank" && s.kl_mean < kControlKl)
      line(text,
           "CAUTION: with every old visual token erased (blank) KL is only {:.3f}: these "
           "data hardly depend on what is encoded.",
           s.kl_mean);
}

Json answers_json(const Answers& answers) {
  if (answers.total() == 0) return nullptr;
  const Interval right = wilson_interval(answers.right, answers.total());
  const Interval drop = paired_interval(answers.paired);
  return {{"total", answers.total()},
          {"right", answers.right},
          {"right_interval", {right.low, right.high}},
          {"reference_right", answers.reference_right},
          {"only_reference_right", answers.paired.only_reference},
          {"only_test_right", answers.paired.only_test},
          {"drop", answers.paired.drop()},
          {"drop_interval", {drop.low, drop.high}}};
}

Json gate_json(const ConfigurationSummary& summary) {
  if (summary.gate == nullptr) return nullptr;
  return {{"name", summary.gate->name},         {"kl_mean_max", summary.gate->kl_mean_max},
          {"top1_min", summary.gate->top1_min}, {"drop_max", summary.gate->drop_max},
          {"kl", name(summary.kl_verdict)},     {"top1", name(summary.top1_verdict)},
          {"drop", name(summary.drop_verdict)}, {"verdict", name(summary.verdict)}};
}

}  // namespace

std::string quality_table(const QualityFacts& facts,
                          std::span<const ConfigurationSummary> summaries) {
  std::string text;
  append_head(text, facts, summaries);
  append_rows(text, summaries);
  append_groups(text, summaries);
  append_layers(text, summaries);
  append_notes(text, summaries);
  return text;
}

Json quality_json(const QualityFacts& facts, std::span<const ConfigurationSummary> summaries) {
  Json json = {{"model", facts.model},
               {"data", facts.data},
               {"view", facts.view},
               {"recent_tokens", facts.recent_tokens},
               {"items", facts.source_count},
               {"calibration_items", facts.calibration_count},
               {"failures", facts.failure_count},
               {"seconds", facts.seconds},
               {"interrupted", facts.interrupted},
               {"configurations", Json::array()}};
  for (const ConfigurationSummary& s : summaries) {
    Json one = {{"name", s.name},
                {"detail", s.detail},
                {"simulated", s.simulated},
                {"cases", s.case_count},
                {"positions", s.position_count},
                {"kl", {{"mean", s.kl_mean}, {"p99", s.kl_p99}, {"max", s.kl_max}}},
                {"top1", s.top1},
                {"match", s.match},
                {"match_tokens", s.match_tokens},
                {"same_answer", s.same_answer},
                {"catastrophic", s.catastrophic},
                {"bits",
                 {{"visual", s.visual_bits},
                  {"visual_encoded", s.visual_encoded_bits},
                  {"visual_encoded_share", s.visual_encoded_share},
                  {"visual_originals", s.visual_original_bits},
                  {"visual_promoted_share", s.visual_promoted_share},
                  {"all", s.all_bits},
                  {"encoded_share", s.encoded_share}}},
                {"layer_error", s.layer_error},
                {"answers", answers_json(s.answers)},
                {"gate", gate_json(s)}};
    for (const auto& [media, group] : s.groups)
      one["groups"][media] = {{"kl_mean", group.kl_mean},
                              {"positions", group.position_count},
                              {"answers", answers_json(group.answers)}};
    for (const auto& [kind, answers] : s.kinds) one["kinds"][kind] = answers_json(answers);
    json["configurations"].push_back(std::move(one));
  }
  return json;
}

}  // namespace vkv
