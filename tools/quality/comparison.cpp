// comparison.cpp: reference run, teacher-forced test, free run behind the first difference.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/comparison.h"

#include <algorithm>
#include <limits>

#include "tools/quality/metrics.h"

namespace vkv {
namespace {

// A window's sealing looks at so many of its newest queries (runtime/seal.cpp).
constexpr int kPrefixQueries = 64;

class SequenceOwner {
 public:
  SequenceOwner(Cache* cache, SequenceId id) : cache_(cache), id_(id) {}
  ~SequenceOwner() { (void)cache_->erase(id_); }  // the call's own error is the one to report
  SequenceOwner(const SequenceOwner&) = delete;
  SequenceOwner& operator=(const SequenceOwner&) = delete;
  SequenceId id() const { return id_; }

 private:
  Cache* cache_;
  SequenceId id_;
};

int32_t likeliest(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Row `index` of logits [positions, vocabulary].
std::span<const float> row(const std::vector<float>& logits, size_t index, size_t vocabulary) {
  return std::span(logits).subspan(index * vocabulary, vocabulary);
}

void add(const RoleStats& from, RoleStats& sum) {
  sum.token_count += from.token_count;
  sum.value_count += from.value_count;
  sum.stored_bits += from.stored_bits;
  sum.sealed_value_count += from.sealed_value_count;
  sum.sealed_stored_bits += from.sealed_stored_bits;
  sum.high_value_count += from.high_value_count;
  sum.promoted_value_count += from.promoted_value_count;
  sum.original_bits += from.original_bits;
}

bool is_right(const Tokenizer& tokenizer, std::span<const int32_t> answer,
              const std::string& expected) {
  return is_expected(tokenizer.decode(answer), expected);
}

}  // namespace

bool Comparison::is_end(int32_t token) const {
  const std::vector<int32_t>& ends = model_->config().eos_tokens;
  return std::find(ends.begin(), ends.end(), token) != ends.end();
}

Result<std::vector<float>> Comparison::feed(Cache& cache, SequenceId sequence,
                                            const QualityItem& item, int64_t position,
                                            std::span<const int32_t> tokens) const {
  std::vector<Role> roles;
  for (const int32_t token : tokens)
    roles.push_back(tokenizer_->is_special(token) ? Role::kControl : Role::kText);
  return model_->forward(cache,
                         {.sequence = sequence,
                          .position = position,
                          .tokens = tokens,
                          .roles = roles,
                          .rope_delta = item.prefix.rope_delta,
                          .logit_count = static_cast<int>(tokens.size())},
                         {.cancel = watch_.cancel});
}

Result<ReferenceRun> Comparison::run_reference(RecordingCache& exact,
                                               const QualityItem& item) const {
  VKV_TRY_ASSIGN(sequence, exact.create_sequence());
  const SequenceOwner owner(&exact, sequence);
  ReferenceRun run;
  exact.start(kPrefixQueries);
  const Status prefilled = model_
                               ->forward(exact,
                                         {.sequence = sequence,
                                          .tokens = item.prefix.tokens,
                                          .roles = item.prefix.roles,
                                          .rope = item.prefix.rope,
                                          .visual = *item.visual,
                                          .logit_count = 0,
                                          .ends_window = true},
                                         {.cancel = watch_.cancel})
                               .status();
  run.prefix = exact.take();
  VKV_TRY(prefilled);
  for (const QualityCase& one : item.cases) {
    VKV_TRY_ASSIGN(answered, answer(exact, sequence, item, one));
    run.cases.push_back(std::move(answered));
  }
  return run;
}

Result<ReferenceRun::Case> Comparison::answer(RecordingCache& exact, SequenceId prefix,
                                              const QualityItem& item,
                                              const QualityCase& one) const {
  const auto vocabulary = static_cast<size_t>(model_->config().text.vocabulary);
  VKV_TRY_ASSIGN(sequence, exact.fork(prefix));
  const SequenceOwner owner(&exact, sequence);
  ReferenceRun::Case run;
  run.tail_positions = item.compares_tail ? one.tail.tokens.size() : 1;
  auto position = static_cast<int64_t>(item.prefix.tokens.size());
  exact.start(std::numeric_limits<int>::max());
  Result<std::vector<float>> logits =
      model_->forward(exact,
                      {.sequence = sequence,
                       .position = position,
                       .tokens = one.tail.tokens,
                       .roles = one.tail.roles,
                       .rope_delta = item.prefix.rope_delta,
                       .logit_count = static_cast<int>(run.tail_positions),
                       .ends_window = true},
                      {.cancel = watch_.cancel});
  run.tail = exact.take();
  VKV_TRY(logits.status());
  run.logits = std::move(logits.value());
  position += static_cast<int64_t>(one.tail.tokens.size());

  // The last new token needs no position: it is never fed back.
  const int64_t room = model_->config().text.positions_max - item.prefix.rope_delta - position + 1;
  const int64_t new_tokens_max = std::min<int64_t>(item.new_tokens_max, room);
  while (static_cast<int64_t>(run.answer.size()) < new_tokens_max) {
    const int32_t token =
        likeliest(row(run.logits, run.logits.size() / vocabulary - 1, vocabulary));
    if (is_end(token)) break;
    run.answer.push_back(token);
    if (static_cast<int64_t>(run.answer.size()) == new_tokens_max) break;
    VKV_TRY_ASSIGN(next, feed(exact, sequence, item, position++, {&token, 1}));
    run.fed.push_back(token);
    run.logits.insert(run.logits.end(), next.begin(), next.end());
  }
  if (one.expected) run.right = is_right(*tokenizer_, run.answer, *one.expected);
  return run;
}

Result<std::vector<CaseResult>> Comparison::run_test(Cache& cache, const QualityItem& item,
                                                     const ReferenceRun& reference) const {
  VKV_TRY_ASSIGN(sequence, cache.create_sequence());
  const SequenceOwner owner(&cache, sequence);
  VKV_TRY(replay(reference.prefix, cache, sequence, true));
  std::vector<CaseResult> results;
  for (size_t i = 0; i < item.cases.size(); ++i) {
    VKV_TRY(watch_.check());
    VKV_TRY_ASSIGN(result, test_case(cache, sequence, item, i, reference.cases[i]));
    results.push_back(std::move(result));
  }
  return results;
}

Result<CaseResult> Comparison::test_case(Cache& cache, SequenceId prefix, const QualityItem& item,
                                         size_t index, const ReferenceRun::Case& reference) const {
  const QualityCase& one = item.cases[index];
  const auto vocabulary = static_cast<size_t>(model_->config().text.vocabulary);
  CaseResult result;
  if (index == 0 && !item.kl_only) {
    VKV_TRY_ASSIGN(errors, layer_errors(cache, prefix, item, reference.tail));
    result.layer_error = std::move(errors);
  }

  // 1. The same tokens: tail, then the reference's answer.
  VKV_TRY_ASSIGN(sequence, cache.fork(prefix));
  const SequenceOwner owner(&cache, sequence);
  auto position = static_cast<int64_t>(item.prefix.tokens.size());
  VKV_TRY_ASSIGN(logits, model_->forward(cache,
                                         {.sequence = sequence,
                                          .position = position,
                                          .tokens = one.tail.tokens,
                                          .roles = one.tail.roles,
                                          .rope_delta = item.prefix.rope_delta,
                                          .logit_count = static_cast<int>(reference.tail_positions),
                                          .ends_window = item.tail_is_window},
                                         {.cancel = watch_.cancel}));
  position += static_cast<int64_t>(one.tail.tokens.size());
  if (!reference.fed.empty()) {
    VKV_TRY_ASSIGN(more, feed(cache, sequence, item, position, reference.fed));
    logits.insert(logits.end(), more.begin(), more.end());
  }
  VKV_TRY_ASSIGN(stats, cache.sequence_stats(sequence));
  result.visual = stats.role[static_cast<size_t>(Role::kVisual)];
  for (const RoleStats& role : stats.role) add(role, result.all);

  // 2. Compare.
  const size_t positions = logits.size() / vocabulary, first = reference.tail_positions - 1;
  result.answer_count = static_cast<uint32_t>(positions - first);
  result.match_count = result.answer_count;
  std::vector<int32_t> own;  // greedy answer up to and with the first other token
  for (size_t i = 0; i < positions; ++i) {
    const LogitDifference difference =
        compare_logits(row(reference.logits, i, vocabulary), row(logits, i, vocabulary));
    const bool same = difference.reference_top1 == difference.test_top1;
    result.kl.push_back(static_cast<float>(difference.kl));
    result.agreed += same ? 1 : 0;
    if (i < first || result.match_count < result.answer_count || same) continue;
    result.match_count = static_cast<uint32_t>(i - first);
    own.assign(reference.answer.begin(),
               reference.answer.begin() + static_cast<ptrdiff_t>(i - first));
    own.push_back(difference.test_top1);
  }
  if (!one.expected || item.kl_only) return result;
  result.right = reference.right;
  if (result.match_count == result.answer_count) return result;

  // 3. An answer of its own.
  const auto kept = static_cast<int64_t>(result.match_count);
  VKV_TRY(cache.truncate(
      sequence, static_cast<int>(reference.fed.size()) - static_cast<int>(result.match_count)));
  VKV_TRY_ASSIGN(answered, run_free(cache, sequence, item, position + kept, std::move(own)));
  result.right = is_right(*tokenizer_, answered, *one.expected);
  return result;
}

// Goes on from `answer`, whose last token is not fed yet. Returns the answer without an end token.
Result<std::vector<int32_t>> Comparison::run_free(Cache& cache, SequenceId sequence,
                                                  const QualityItem& item, int64_t position,
                                                  std::vector<int32_t> answer) const {
  const int64_t positions_max = model_->config().text.positions_max - item.prefix.rope_delta;
  while (!is_end(answer.back())) {
    if (static_cast<int>(answer.size()) >= item.new_tokens_max || position >= positions_max)
      return answer;
    VKV_TRY_ASSIGN(logits, feed(cache, sequence, item, position++, {&answer.back(), 1}));
    answer.push_back(likeliest(logits));
  }
  answer.pop_back();
  return answer;
}

Result<std::vector<float>> Comparison::layer_errors(Cache& cache, SequenceId prefix,
                                                    const QualityItem& item,
                                                    const Recording& tail) const {
  VKV_TRY_ASSIGN(sequence, cache.fork(prefix));
  const SequenceOwner owner(&cache, sequence);
  std::vector<std::vector<float>> outs;
  VKV_TRY(replay(tail, cache, sequence, item.tail_is_window, &outs));
  std::vector<float> errors;
  for (size_t layer = 0; layer < outs.size(); ++layer) {
    const std::span<const float> expected = tail.layers[layer].out, out = outs[layer];
    const size_t rows = static_cast<size_t>(tail.layers[layer].query_count);
    const size_t width = out.size() / rows;
    std::vector<double> each;
    for (size_t i = 0; i < rows; ++i)
      each.push_back(
          relative_error(expected.subspan(i * width, width), out.subspan(i * width, width)));
    errors.push_back(static_cast<float>(median(std::move(each))));
  }
  return errors;
}

}  // namespace vkv
