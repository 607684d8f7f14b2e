// comparison.h: one item, teacher-forced: a tested cache against one that keeps all at 16 bit.
// SPDX-License-Identifier: Apache-2.0
//
// Where the tested cache keeps originals, all is as in a program: the prefix is a window, whose
// newest queries choose what is promoted; the tail is the next, which reads originals and chooses
// anew; the answer reads codes and copies.
//
// The reference answers greedily. The tested cache is then fed the same tokens, and the logits at
// each position of the answer are compared, the one behind its last token included. While the
// greedy choices agree, teacher forcing and free running are the same; behind the first difference
// the tested cache also runs freely, for its own answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/mllm/model.h"
#include "tools/mllm/tokenizer.h"
#include "tools/quality/quality_item.h"
#include "tools/quality/recording_cache.h"
#include "vkv/stats.h"

namespace vkv {

// What the reference did with one item.
struct ReferenceRun {
  struct Case {
    Recording tail;               // all its queries, and what attention gave them
    std::vector<float> logits;    // [positions, vocabulary]: tail (if compared), then answer
    size_t tail_positions = 0;    // of them; the last one is the answer's first
    std::vector<int32_t> answer;  // without an end token
    std::vector<int32_t> fed;   // of it, what is fed: the last token is not, unless an end follows
    std::optional<bool> right;  // where an answer is expected
  };
  Recording prefix;
  std::vector<Case> cases;
};

// One configuration on one case.
struct CaseResult {
  std::vector<float> kl;      // nats, a position
  uint32_t agreed = 0;        // positions with the reference's likeliest token
  uint32_t answer_count = 0;  // positions of the answer, end token included
  uint32_t match_count = 0;   // of them, before the first difference of greedy runs
  std::optional<bool> right;  // where an answer is expected
  RoleStats visual, all;      // what the cache holds when the reference's answer is complete
  // Relative error of attention's output by layer, median over the tail's tokens, each layer given
  // the reference's q, k and v: its own error, not what earlier layers did. Of an item's first
  // case; else empty.
  std::vector<float> layer_error;
};

// One thread. All that is passed in outlives it.
class Comparison {
 public:
  Comparison(Model* model, const Tokenizer* tokenizer, const Watch& watch)
      : model_(model), tokenizer_(tokenizer), watch_(watch) {}

  // Errors: those of the model and the cache (a prompt longer than the model's positions),
  // kCancelled. No sequence is left behind, here and below.
  Result<ReferenceRun> run_reference(RecordingCache& exact, const QualityItem& item) const;

  // One result a case. `cache` is of the model's shape.
  Result<std::vector<CaseResult>> run_test(Cache& cache, const QualityItem& item,
                                           const ReferenceRun& reference) const;

 private:
  Result<ReferenceRun::Case> answer(RecordingCache& exact, SequenceId prefix,
                                    const QualityItem& item, const QualityCase& one) const;
  Result<CaseResult> test_case(Cache& cache, SequenceId prefix, const QualityItem& item,
                               size_t index, const ReferenceRun::Case& reference) const;
  Result<std::vector<int32_t>> run_free(Cache& cache, SequenceId sequence, const QualityItem& item,
                                        int64_t position, std::vector<int32_t> answer) const;
  Result<std::vector<float>> layer_errors(Cache& cache, SequenceId prefix, const QualityItem& item,
                                          const Recording& tail) const;
  Result<std::vector<float>> feed(Cache& cache, SequenceId sequence, const QualityItem& item,
                                  int64_t position, std::span<const int32_t> tokens) const;
  bool is_end(int32_t token) const;

  Model* model_;
  const Tokenizer* tokenizer_;
  Watch watch_;
};

}  // namespace vkv
