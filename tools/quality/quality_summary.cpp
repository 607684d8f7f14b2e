// quality_summary.cpp: adds up cases and judges.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/quality_summary.h"

#include <algorithm>

namespace vkv {
namespace {

constexpr Gate kGates[] = {
    {"I8", .002, .99, .002},
    {"I4", .01, .97, .005},
    {"visual2", .03, .95, .01},
    {"visual1", .1, .90, .02},
};
constexpr double kCatastropheFactor = 10;
constexpr double kCatastropheFloor = 0.01;  // nats

double ratio(double part, double whole) { return whole == 0 ? 0 : part / whole; }
double ratio(uint64_t part, uint64_t whole) {
  return ratio(static_cast<double>(part), static_cast<double>(whole));
}

void add(const RoleStats& from, RoleStats& sum) {
  sum.value_count += from.value_count;
  sum.stored_bits += from.stored_bits;
  sum.sealed_value_count += from.sealed_value_count;
  sum.sealed_stored_bits += from.sealed_stored_bits;
  sum.promoted_value_count += from.promoted_value_count;
  sum.original_bits += from.original_bits;
}

// Layer by layer the median over items.
std::vector<double> median_by_layer(const std::vector<const std::vector<float>*>& items) {
  std::vector<double> medians;
  if (items.empty()) return medians;
  for (size_t layer = 0; layer < items.front()->size(); ++layer) {
    std::vector<double> errors;
    for (const std::vector<float>* item : items) errors.push_back((*item)[layer]);
    medians.push_back(median(std::move(errors)));
  }
  return medians;
}

}  // namespace

void Answers::add(bool reference, bool test) {
  right += test ? 1 : 0;
  reference_right += reference ? 1 : 0;
  ++paired.total;
  paired.only_reference += reference && !test ? 1 : 0;
  paired.only_test += test && !reference ? 1 : 0;
}

const Gate* gate_of(std::string_view configuration) {
  if (configuration == "i8") return &kGates[0];
  if (configuration == "i4" || configuration == "balanced") return &kGates[1];
  if (configuration == "visual2") return &kGates[2];
  if (configuration == "visual1") return &kGates[3];
  return nullptr;
}

std::string_view name(Verdict verdict) {
  constexpr std::string_view kNames[] = {"", "PASS", "OPEN", "FAIL"};
  return kNames[static_cast<size_t>(verdict)];
}

void judge(const Gate& gate, ConfigurationSummary& summary) {
  summary.gate = &gate;
  const auto by = [](bool good) { return good ? Verdict::kPass : Verdict::kFail; };
  if (summary.position_count > 0) {
    summary.kl_verdict = by(summary.kl_mean <= gate.kl_mean_max);
    summary.top1_verdict = by(summary.top1 >= gate.top1_min);
  }
  if (summary.answers.total() > 0) {
    const PairedCounts& paired = summary.answers.paired;
    summary.drop_verdict = paired.drop() > gate.drop_max                   ? Verdict::kFail
                           : paired_interval(paired).high <= gate.drop_max ? Verdict::kPass
                                                                           : Verdict::kOpen;
  }
  summary.verdict = std::max({summary.kl_verdict, summary.top1_verdict, summary.drop_verdict});
}

ConfigurationSummary summarize(std::span<const SourceResult> results, size_t index,
                               const Configuration& configuration) {
  ConfigurationSummary summary{.name = configuration.name};
  summary.simulated = configuration.scheme.has_value();
  summary.detail = chosen_text(configuration);
  std::vector<double> kl, case_kl;
  std::vector<const std::vector<float>*> layer_errors;
  RoleStats visual, all;
  double match = 0, match_tokens = 0;
  uint64_t agreed = 0, same = 0;
  for (const SourceResult& result : results) {
    for (const CaseRow& row : result.rows) {
      const CaseResult& one = row.results[index];
      GroupSummary& group = summary.groups[row.group];
      double sum = 0;
      for (const float value : one.kl) {
        kl.push_back(value);
        sum += value;
      }
      case_kl.push_back(ratio(sum, static_cast<double>(one.kl.size())));
      group.kl_mean += sum;  // divided below
      group.position_count += one.kl.size();
      agreed += one.agreed;
      match += ratio(uint64_t{one.match_count}, uint64_t{one.answer_count});
      match_tokens += one.match_count;
      same += one.match_count == one.answer_count ? 1 : 0;
      if (one.right && row.reference_right) {
        summary.answers.add(*row.reference_right, *one.right);
        group.answers.add(*row.reference_right, *one.right);
        if (!row.kind.empty()) summary.kinds[row.kind].add(*row.reference_right, *one.right);
      }
      add(one.visual, visual);
      add(one.all, all);
      if (!one.layer_error.empty()) layer_errors.push_back(&one.layer_error);
    }
  }
  for (auto& [media, group] : summary.groups)
    group.kl_mean = ratio(group.kl_mean, static_cast<double>(group.position_count));
  summary.case_count = case_kl.size();
  summary.position_count = kl.size();
  summary.kl_mean = mean(kl);
  summary.kl_p99 = quantile(kl, 0.99);
  summary.kl_max = quantile(kl, 1);
  summary.top1 = ratio(agreed, kl.size());
  summary.match = ratio(match, static_cast<double>(case_kl.size()));
  summary.match_tokens = ratio(match_tokens, static_cast<double>(case_kl.size()));
  summary.same_answer = ratio(same, case_kl.size());
  const double limit = std::max(kCatastropheFloor, kCatastropheFactor * median(case_kl));
  summary.catastrophic =
      ratio(static_cast<uint64_t>(std::count_if(case_kl.begin(), case_kl.end(),
                                                [&](double value) { return value > limit; })),
            case_kl.size());
  summary.visual_bits = visual.bits_per_value();
  summary.visual_encoded_bits = ratio(visual.sealed_stored_bits, visual.sealed_value_count);
  summary.visual_encoded_share = ratio(visual.sealed_value_count, visual.value_count);
  summary.keeps_originals = configuration.keep_original != KeepOriginal::kNone;
  summary.visual_original_bits = ratio(visual.original_bits, visual.value_count);
  summary.visual_promoted_share = ratio(visual.promoted_value_count, visual.value_count);
  summary.all_bits = all.bits_per_value();
  summary.encoded_share = ratio(all.sealed_value_count, all.value_count);
  summary.layer_error = median_by_layer(layer_errors);
  if (const Gate* gate = gate_of(configuration.name)) judge(*gate, summary);
  return summary;
}

}  // namespace vkv
