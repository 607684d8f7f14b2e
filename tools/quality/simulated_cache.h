// simulated_cache.h: a vkv::Cache that shows what a quantization scheme does to a model, without
// storing anything in few bits.
// SPDX-License-Identifier: Apache-2.0
//
// Tokens get their classes exactly as in the real cache: the newest stay open, sinks too, text and
// control and salient visual tokens are high, the rest is low, and they are sealed at the same
// moments. The low ones then go through the scheme (scheme.h), high ones through the policy's pair.
// Open tokens are rounded to 16 bit as in the real cache. Attention is plain fp32.
//
// sequence_stats() counts 16 bits a value for open tokens and the scheme's own formula for sealed
// ones; block tables are not counted, unlike the real cache's.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tools/quality/scheme.h"
#include "tools/quality/simulated_layer.h"
#include "vkv/cache.h"

namespace vkv {

// Sums over queries of what lambda is computed from, [layers, q_heads]; see Scheme::fits_lambda.
struct LambdaFit {
  std::vector<double> covariance;  // of true and quantized scores about the middle, per query
  std::vector<double> variance;    // of the quantized ones

  void add(const LambdaFit& other);
  // covariance / variance; 1 where nothing was seen.
  std::vector<float> lambda() const;
};

// Not thread-safe. Works in the calling thread's arena.
class SimulatedCache final : public Cache {
 public:
  // options.element must be kF32. Budgets and store are not looked at.
  // Errors: kInvalidArgument for a shape out of range or another element.
  static Result<std::unique_ptr<SimulatedCache>> open(const CacheOptions& options,
                                                      const Scheme& scheme);

  Result<SequenceId> create_sequence() override;
  Result<SequenceId> fork(SequenceId parent) override;
  Status erase(SequenceId sequence) override;
  Status truncate(SequenceId sequence, int token_count_dropped) override;
  Status append(int layer, std::span<const AppendRequest> requests) override {
    for (const AppendRequest& request : requests) VKV_TRY(append_one(layer, request));
    return {};
  }
  Status attend(int layer, std::span<const AttendRequest> requests) override;
  Result<SequenceStats> sequence_stats(SequenceId sequence) const override;
  CacheStats stats() const override { return {.sequence_count = sequences_.size()}; }
  const CacheOptions& options() const override { return options_; }
  std::string engine() const override { return "simulated"; }
  std::string io_engine() const override { return "none"; }

  const LambdaFit& lambda_fit() const { return fit_; }

 private:
  Status append_one(int layer, const AppendRequest& request);
  struct Sequence {
    std::vector<Role> roles;
    std::vector<SimulatedLayer> layers;
  };

  SimulatedCache(const CacheOptions& options, const Scheme& scheme);
  Result<const Sequence*> find(SequenceId id) const;
  Result<Sequence*> find(SequenceId id);
  bool corrects_scores() const { return scheme_.lambda != nullptr || scheme_.fits_lambda; }
  // One chunk of an attend for the query heads of one KV head: queries [begin, begin + count). Rows
  // are (query, head), the heads of a query next to each other.
  struct Chunk {
    int layer, kv_head, begin, count;
    const SimulatedLayer* tokens;
    const std::vector<uint32_t>* low;  // sealed tokens of the scheme
    const AttendRequest* request;
    std::vector<float> q;  // [rows, head_dim]

    int rows(const KvShape& shape) const { return count * shape.group(); }
  };
  void attend_chunk(Chunk& chunk, float* lse);
  void correct_scores(const Chunk& chunk, std::span<float> scores);
  // [rows, tokens] of the chunk's queries with keys [tokens, kv_heads, head_dim].
  void score(const Chunk& chunk, const std::vector<float>& keys, float* scores) const;

  CacheOptions options_;
  Scheme scheme_;
  float scale_;
  LambdaFit fit_;
  uint64_t last_id_ = 0;
  std::map<SequenceId, Sequence> sequences_;
};

}  // namespace vkv
