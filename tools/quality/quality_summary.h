// quality_summary.h: what a run says of each configuration, and whether it passes its gate.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tools/quality/evaluation.h"
#include "tools/quality/metrics.h"

namespace vkv {

// Answers right or wrong, in the reference and in the test.
struct Answers {
  uint64_t right = 0;
  uint64_t reference_right = 0;
  PairedCounts paired;

  uint64_t total() const { return paired.total; }
  void add(bool reference, bool test);
};

// KL and answers of one kind of media.
struct GroupSummary {
  double kl_mean = 0;  // over positions
  uint64_t position_count = 0;
  Answers answers;
};

// What a setting may cost. Sources: the project's gates; KL in nats, shares 0..1.
struct Gate {
  std::string_view name;
  double kl_mean_max;
  double top1_min;
  double drop_max;  // of accuracy; judged by the whole paired interval
};

// i8; i4 and balanced; visual2; visual1. Others have none: they are reported only.
const Gate* gate_of(std::string_view configuration);

// kOpen: neither shown to be within the gate nor to be outside of it; more questions would tell.
enum class Verdict : uint8_t { kNone, kPass, kOpen, kFail };
std::string_view name(Verdict verdict);  // "", "PASS", "OPEN", "FAIL"

struct ConfigurationSummary {
  std::string name;
  std::string detail;  // parameters chosen on the calibration items
  bool simulated = false;

  uint64_t case_count = 0;
  uint64_t position_count = 0;
  double kl_mean = 0, kl_p99 = 0, kl_max = 0;  // over positions, nats
  double top1 = 0;                             // share of positions with the same likeliest token
  double match = 0;         // mean share of an answer before the first greedy difference
  double match_tokens = 0;  // mean of the same in tokens, end token included
  double same_answer = 0;   // share of cases without one
  // Cases whose mean KL is above 10 times the median case's, and above 0.01 nats: below that
  // nothing is a catastrophe.
  double catastrophic = 0;
  Answers answers;
  double visual_bits = 0;           // a value, as stored, open tokens and all metadata counted
  double visual_encoded_bits = 0;   // of those that are encoded
  double visual_encoded_share = 0;  // of the visual values
  // Of 16-bit originals that are kept, a visual value; in none of the other bits: attention of
  // decode steps does not read them. And the share of visual values with a promoted copy.
  bool keeps_originals = false;
  double visual_original_bits = 0;
  double visual_promoted_share = 0;
  double all_bits = 0;                         // of all roles
  double encoded_share = 0;                    // of all values
  std::vector<double> layer_error;             // median over items, see CaseResult
  std::map<std::string, GroupSummary> groups;  // by media
  std::map<std::string, Answers> kinds;        // by kind of question

  const Gate* gate = nullptr;
  Verdict kl_verdict = Verdict::kNone, top1_verdict = Verdict::kNone;
  Verdict drop_verdict = Verdict::kNone;
  Verdict verdict = Verdict::kNone;  // the worst of them
};

// Judges by `gate`; sets it and the verdicts. KL and top-1 by their values. Accuracy: PASS if the
// whole 95 % interval of the drop is within the gate, FAIL if the drop itself is beyond it. Without
// questions that have an expected answer, accuracy has no say.
void judge(const Gate& gate, ConfigurationSummary& summary);

ConfigurationSummary summarize(std::span<const SourceResult> results, size_t index,
                               const Configuration& configuration);

// What is said on top of a table.
struct QualityFacts {
  std::string model;
  std::string data;  // files
  std::string view;  // how questions see their media
  int recent_tokens = 0;
  uint64_t source_count = 0;
  uint64_t calibration_count = 0;  // sources used to choose parameters, not among the others
  uint64_t failure_count = 0;
  double seconds = 0;
  bool interrupted = false;
};

std::string quality_table(const QualityFacts& facts,
                          std::span<const ConfigurationSummary> summaries);
nlohmann::json quality_json(const QualityFacts& facts,
                            std::span<const ConfigurationSummary> summaries);

}  // namespace vkv
