// summary.h: what a run did, as a table and as JSON.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tools/vkv/answers.h"
#include "vkv/stats.h"

namespace vkv {

// What holds for the run as a whole.
struct RunFacts {
  std::string model;
  std::string preset;
  std::string engine;     // of attention; empty if no model was loaded
  std::string io_engine;  // "none" without an NVMe tier
  uint64_t dram_bytes_max = 0;
  uint64_t nvme_bytes_max = 0;
  double seconds = 0;          // since the first job began
  uint64_t earlier_count = 0;  // answers taken from an earlier run
  uint64_t failure_count = 0;  // jobs and questions without an answer
  bool interrupted = false;
  CacheStats cache;  // at the end of this run
};

// Adds up answers. Ratios are of sums, so that long prompts weigh more than short ones.
class Totals {
 public:
  void add(const AnswerRecord& record);

  uint64_t answer_count() const { return answer_count_; }
  std::string table(const RunFacts& facts) const;
  nlohmann::json json(const RunFacts& facts) const;

 private:
  struct Accuracy {
    uint64_t correct = 0;
    uint64_t total = 0;
    double percent() const;
  };

  RoleStats all_roles() const;
  using Accuracies = std::map<std::string, Accuracy>;
  void append_accuracy(std::string& text) const;
  void append_roles(std::string& text) const;
  void append_forms(std::string& text) const;
  void append_tiers(std::string& text, const RunFacts& facts) const;
  void append_times(std::string& text) const;

  uint64_t answer_count_ = 0;
  Accuracy accuracy_;
  Accuracies groups_, kinds_;
  std::array<uint64_t, kRoleCount> prompt_tokens_{};
  uint64_t answer_tokens_ = 0;
  std::array<RoleStats, kRoleCount> kv_;
  std::vector<FormStats> forms_;  // by role, form and codecs
  TierBytes dram_, nvme_;         // bytes: the most that any answer left; peak: the most ever
  IoCounts io_;
  std::vector<double> media_seconds_, ttft_seconds_, tpot_seconds_;
};

}  // namespace vkv
