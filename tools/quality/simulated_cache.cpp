// simulated_cache.cpp: sequences in fp32, and attention over them.
// SPDX-License-Identifier: Apache-2.0
#include "tools/quality/simulated_cache.h"

#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "runtime/base/codec.h"

namespace vkv {
namespace {

constexpr int kQueryChunk = 256;  // scores of one chunk lie in memory at once
constexpr int kFewRows = 8;  // up to here packing for a matrix product costs more than it gains

// c [m, n] = scale * a [m, k] * op(b); op(b) is b [k, n], or b [n, k] transposed.
void multiply(bool transpose_b, int64_t m, int64_t n, int64_t k, float scale, const float* a,
              int64_t a_row, const float* b, int64_t b_row, float* c, int64_t c_row) {
  VKV_CHECK(dnnl_sgemm('N', transpose_b ? 'T' : 'N', m, n, k, scale, a, a_row, b, b_row, 0.0f, c,
                       c_row) == dnnl_success);
}

// As multiply(true, ...), row by row. 16 sums, so that the compiler may keep them in vectors.
void multiply_few(int64_t m, int64_t n, int64_t k, float scale, const float* a, const float* b,
                  int64_t b_row, float* c) {
  constexpr int64_t kSums = 16;
  for (int64_t j = 0; j < n; ++j) {
    const float* const key = b + j * b_row;
    for (int64_t i = 0; i < m; ++i) {
      const float* const query = a + i * k;
      float sums[kSums] = {};
      int64_t at = 0;
      for (; at + kSums <= k; at += kSums)
        for (int64_t lane = 0; lane < kSums; ++lane)
          sums[lane] += query[at + lane] * key[at + lane];
      for (; at < k; ++at) sums[0] += query[at] * key[at];
      for (int64_t lane = 1; lane < kSums; ++lane) sums[0] += sums[lane];
      c[i * n + j] = scale * sums[0];
    }
  }
}

// c [m, n] = a [m, k] * b [k, n], row by row of b; c is contiguous.
void combine_few(int64_t m, int64_t n, int64_t k, const float* a, const float* b, int64_t b_row,
                 float* c) {
  std::fill_n(c, m * n, 0.0f);
  for (int64_t t = 0; t < k; ++t) {
    const float* const value = b + t * b_row;
    for (int64_t i = 0; i < m; ++i) {
      const float weight = a[i * k + t];
      if (weight == 0) continue;
      for (int64_t at = 0; at < n; ++at) c[i * n + at] += weight * value[at];
    }
  }
}

// CalibQuant's g() on the scores of the quantized tokens; see scheme.h.
void calibrate_scores(const Scheme& scheme, std::span<const uint32_t> low, float* scores) {
  if (low.empty()) return;
  float least = scores[low.front()], greatest = least;
  for (const uint32_t t : low) {
    least = std::min(least, scores[t]);
    greatest = std::max(greatest, scores[t]);
  }
  if (greatest <= least) return;
  const double new_low = least - scheme.score_tau_low;
  const double new_high = greatest - scheme.score_tau_high;
  const double slope = (new_high - new_low) / (double{greatest} - double{least});
  for (const uint32_t t : low)
    scores[t] = static_cast<float>((double{scores[t]} - least) * slope + new_low);
}

// The scheme's tokens: sealed and low.
std::vector<uint32_t> low_tokens(const SimulatedLayer& layer) {
  std::vector<uint32_t> low;
  for (uint32_t t = 0; t < layer.token_count(); ++t)
    if (layer.sealed[t] != 0 && layer.classes[t] == TokenClass::kLow) low.push_back(t);
  return low;
}

}  // namespace

void LambdaFit::add(const LambdaFit& other) {
  covariance.resize(std::max(covariance.size(), other.covariance.size()));
  variance.resize(covariance.size());
  for (size_t i = 0; i < other.covariance.size(); ++i) {
    covariance[i] += other.covariance[i];
    variance[i] += other.variance[i];
  }
}

std::vector<float> LambdaFit::lambda() const {
  std::vector<float> factors;
  for (size_t i = 0; i < covariance.size(); ++i)
    factors.push_back(variance[i] > 0 ? static_cast<float>(covariance[i] / variance[i]) : 1.0f);
  return factors;
}

SimulatedCache::SimulatedCache(const CacheOptions& options, const Scheme& scheme)
    : options_(options), scheme_(scheme) {
  const auto heads = static_cast<size_t>(options.shape.layers * options.shape.q_heads);
  fit_ = {std::vector<double>(heads), std::vector<double>(heads)};
  scale_ = options.score_scale != 0 ? options.score_scale
                                    : 1.0f / std::sqrt(static_cast<float>(options.shape.head_dim));
}

Result<std::unique_ptr<SimulatedCache>> SimulatedCache::open(const CacheOptions& options,
                                                             const Scheme& scheme) {
  VKV_TRY(validate(options.shape));
  if (options.element != ElementType::kF32)
    return Status(Code::kInvalidArgument, "a simulated cache takes fp32 only");
  const auto heads = static_cast<size_t>(options.shape.layers * options.shape.q_heads);
  if (scheme.lambda && scheme.lambda->size() != heads)
    return Status(Code::kInvalidArgument,
                  "lambda is of another model: " + std::to_string(scheme.lambda->size()) +
                      " factors, heads " + std::to_string(heads));
  return std::unique_ptr<SimulatedCache>(new SimulatedCache(options, scheme));
}

Result<const SimulatedCache::Sequence*> SimulatedCache::find(SequenceId id) const {
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) return &found->second;
  return Status(Code::kNotFound,
                "there is no sequence " + std::to_string(static_cast<uint64_t>(id)));
}

Result<SimulatedCache::Sequence*> SimulatedCache::find(SequenceId id) {
  VKV_TRY_ASSIGN(found, std::as_const(*this).find(id));
  return const_cast<Sequence*>(found);
}

Result<SequenceId> SimulatedCache::create_sequence() {
  const SequenceId id{++last_id_};
  sequences_[id].layers.resize(static_cast<size_t>(options_.shape.layers));
  return id;
}

Result<SequenceId> SimulatedCache::fork(SequenceId parent) {
  VKV_TRY_ASSIGN(source, find(parent));
  const SequenceId id{++last_id_};
  sequences_[id] = *source;
  return id;
}

Status SimulatedCache::erase(SequenceId sequence) {
  VKV_TRY(find(sequence).status());
  sequences_.erase(sequence);
  return {};
}

Status SimulatedCache::truncate(SequenceId id, int dropped) {
  VKV_TRY_ASSIGN(sequence, find(id));
  const size_t count = sequence->roles.size();
  if (dropped < 0 || static_cast<size_t>(dropped) > count)
    return {Code::kInvalidArgument,
            "cannot drop " + std::to_string(dropped) + " of " + std::to_string(count) + " tokens"};
  const size_t left = count - static_cast<size_t>(dropped);
  for (const SimulatedLayer& layer : sequence->layers)
    if (std::any_of(layer.sealed.begin() + static_cast<ptrdiff_t>(left), layer.sealed.end(),
                    [](uint8_t sealed) { return sealed != 0; }))
      return {Code::kUnsupported, "cannot drop tokens that are encoded"};
  const auto width = static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim);
  for (SimulatedLayer& layer : sequence->layers) {
    for (std::vector<float>* values : {&layer.k, &layer.v, &layer.k_middle, &layer.k_given})
      if (!values->empty()) values->resize(left * width);
    layer.classes.resize(left);
    layer.sealed.resize(left);
  }
  sequence->roles.resize(left);
  return {};
}

Status SimulatedCache::append_one(int layer_index, const AppendRequest& request) {
  VKV_TRY_ASSIGN(sequence, find(request.sequence));
  const auto count = static_cast<size_t>(request.token_count);
  if (layer_index < 0 || layer_index >= options_.shape.layers || request.roles.size() != count)
    return {Code::kInvalidArgument, "append: no such layer, or roles of another length"};
  SimulatedLayer& layer = sequence->layers[static_cast<size_t>(layer_index)];
  const size_t values =
      count * static_cast<size_t>(options_.shape.kv_heads * options_.shape.head_dim);
  const auto add = [&](const void* from, std::vector<float>& target) {
    for (size_t i = 0; i < values; ++i)
      target.push_back(float_from_16_bit(
          options_.open_codec,
          float_to_16_bit(options_.open_codec, static_cast<const float*>(from)[i])));
  };
  add(request.k, layer.k);
  add(request.v, layer.v);
  if (corrects_scores()) {
    add(request.k, layer.k_middle);
    add(request.k, layer.k_given);
  }
  layer.classes.resize(layer.classes.size() + count, TokenClass::kUndecided);
  layer.sealed.resize(layer.classes.size());
  if (layer_index == 0)
    sequence->roles.insert(sequence->roles.end(), request.roles.begin(), request.roles.end());
  return {};
}

Status SimulatedCache::attend(int layer_index, std::span<const AttendRequest> requests) {
  for (const AttendRequest& request : requests) {
    VKV_TRY_ASSIGN(sequence, find(request.sequence));
    SimulatedLayer& layer = sequence->layers[static_cast<size_t>(layer_index)];
    if (request.q_len < 1 || static_cast<uint32_t>(request.q_len) > layer.token_count())
      return {Code::kInvalidArgument,
              "attend: " + std::to_string(request.q_len) + " queries; append before attend"};
    std::vector<float> lse(static_cast<size_t>(request.q_len * options_.shape.q_heads));
    const std::vector<uint32_t> low = low_tokens(layer);
    for (int begin = 0; begin < request.q_len; begin += kQueryChunk) {
      for (int kv_head = 0; kv_head < options_.shape.kv_heads; ++kv_head) {
        Chunk chunk = {.layer = layer_index,
                       .kv_head = kv_head,
                       .begin = begin,
                       .count = std::min(kQueryChunk, request.q_len - begin),
                       .tokens = &layer,
                       .low = &low,
                       .request = &request};
        attend_chunk(chunk, lse.data());
      }
    }
    VKV_TRY(seal_simulated(layer, {.options = &options_,
                                   .scheme = &scheme_,
                                   .layer = layer_index,
                                   .roles = sequence->roles,
                                   .q_len = request.q_len,
                                   .q = static_cast<const float*>(request.q),
                                   .lse = lse.data(),
                                   .score_scale = scale_,
                                   .ends_window = request.ends_window}));
  }
  return {};
}

void SimulatedCache::score(const Chunk& chunk, const std::vector<float>& keys,
                           float* scores) const {
  const int64_t dim = options_.shape.head_dim, kv_row = options_.shape.kv_heads * dim;
  const int64_t tokens = chunk.tokens->token_count(), rows = chunk.rows(options_.shape);
  const float* const head_keys = keys.data() + chunk.kv_head * dim;
  if (rows <= kFewRows)
    multiply_few(rows, tokens, dim, scale_, chunk.q.data(), head_keys, kv_row, scores);
  else
    multiply(true, rows, tokens, dim, scale_, chunk.q.data(), dim, head_keys, kv_row, scores,
             tokens);
}

void SimulatedCache::attend_chunk(Chunk& chunk, float* lse) {
  const KvShape& shape = options_.shape;
  const int64_t dim = shape.head_dim, group = shape.group(), kv_row = shape.kv_heads * dim;
  const int64_t tokens = chunk.tokens->token_count(), rows = chunk.rows(shape);
  const AttendRequest& request = *chunk.request;
  // Where the heads of query i lie in q and out.
  const auto place = [&](int64_t i) {
    return ((chunk.begin + i) * shape.q_heads + chunk.kv_head * group) * dim;
  };
  const auto* const q = static_cast<const float*>(request.q);
  for (int64_t i = 0; i < chunk.count; ++i)
    chunk.q.insert(chunk.q.end(), q + place(i), q + place(i) + group * dim);

  std::vector<float> weight(static_cast<size_t>(rows * tokens));
  score(chunk, chunk.tokens->k, weight.data());
  if (corrects_scores()) correct_scores(chunk, weight);
  for (int64_t r = 0; r < rows; ++r) {
    float* const row = weight.data() + r * tokens;
    if (scheme_.kind == SchemeKind::kCalibQuant) calibrate_scores(scheme_, *chunk.low, row);
    const int64_t i = chunk.begin + r / group;
    const int64_t visible = tokens - request.q_len + i + 1;
    const float greatest = *std::max_element(row, row + visible);
    double sum = 0;
    for (int64_t t = 0; t < visible; ++t) sum += row[t] = std::exp(row[t] - greatest);
    for (int64_t t = 0; t < visible; ++t) row[t] = static_cast<float>(row[t] / sum);
    std::fill(row + visible, row + tokens, 0.0f);
    lse[i * shape.q_heads + chunk.kv_head * group + r % group] =
        static_cast<float>(greatest + std::log(sum));
  }

  std::vector<float> out(static_cast<size_t>(rows * dim));
  const float* const values = chunk.tokens->v.data() + chunk.kv_head * dim;
  if (rows <= kFewRows)
    combine_few(rows, dim, tokens, weight.data(), values, kv_row, out.data());
  else
    multiply(false, rows, dim, tokens, 1.0f, weight.data(), tokens, values, kv_row, out.data(),
             dim);
  for (int64_t i = 0; i < chunk.count; ++i)
    std::copy_n(out.data() + i * group * dim, group * dim,
                static_cast<float*>(request.out) + place(i));
}

// Scores about the middle of the levels, times lambda; and what lambda is fitted from.
void SimulatedCache::correct_scores(const Chunk& chunk, std::span<float> scores) {
  if (chunk.low->empty()) return;
  const KvShape& shape = options_.shape;
  const int64_t tokens = chunk.tokens->token_count();
  // Of the query head of row r, in [layers, q_heads].
  const auto factor = [&](int64_t r) {
    return static_cast<size_t>(chunk.layer * shape.q_heads + chunk.kv_head * shape.group() +
                               r % shape.group());
  };
  std::vector<float> middle(scores.size());
  score(chunk, chunk.tokens->k_middle, middle.data());
  if (scheme_.fits_lambda) {
    std::vector<float> given(scores.size());
    score(chunk, chunk.tokens->k_given, given.data());
    const auto n = static_cast<double>(chunk.low->size());
    for (int64_t r = 0; r < chunk.rows(shape); ++r) {
      double x = 0, y = 0, xx = 0, xy = 0;  // x: quantized, y: true
      for (const uint32_t t : *chunk.low) {
        const auto at = static_cast<size_t>(r * tokens + t);
        const double dx = double{scores[at]} - middle[at], dy = double{given[at]} - middle[at];
        x += dx, y += dy, xx += dx * dx, xy += dx * dy;
      }
      fit_.covariance[factor(r)] += xy - x * y / n;
      fit_.variance[factor(r)] += xx - x * x / n;
    }
  }
  if (!scheme_.lambda) return;
  for (int64_t r = 0; r < chunk.rows(shape); ++r) {
    const float lambda = (*scheme_.lambda)[factor(r)];
    for (const uint32_t t : *chunk.low) {
      const auto at = static_cast<size_t>(r * tokens + t);
      scores[at] = middle[at] + lambda * (scores[at] - middle[at]);
    }
  }
}

Result<SequenceStats> SimulatedCache::sequence_stats(SequenceId id) const {
  VKV_TRY_ASSIGN(sequence, find(id));
  const auto values = 2 * static_cast<uint64_t>(options_.shape.kv_heads * options_.shape.head_dim);
  SequenceStats stats{.token_count = sequence->roles.size()};
  std::array<double, kRoleCount> bits{};
  for (const Role role : sequence->roles) ++stats.role[static_cast<size_t>(role)].token_count;
  for (const SimulatedLayer& layer : sequence->layers) {
    for (uint32_t t = 0; t < layer.token_count(); ++t) {
      const auto role = static_cast<size_t>(sequence->roles[t]);
      RoleStats& of = stats.role[role];
      of.value_count += values;
      of.sealed_value_count += layer.sealed[t] != 0 ? values : 0;
      const bool high =
          layer.classes[t] == TokenClass::kHigh || layer.classes[t] == TokenClass::kSink;
      of.high_value_count += high ? values : 0;
      bits[role] += layer.sealed[t] != 0 ? 0.0 : 16.0 * static_cast<double>(values);
    }
    for (size_t role = 0; role < kRoleCount; ++role) {
      bits[role] += layer.sealed_bits[role];
      stats.role[role].sealed_stored_bits += static_cast<uint64_t>(layer.sealed_bits[role]);
    }
  }
  for (size_t role = 0; role < kRoleCount; ++role)
    stats.role[role].stored_bits = static_cast<uint64_t>(bits[role]);
  if (!sequence->layers.empty())
    for (const uint8_t sealed : sequence->layers.front().sealed)
      stats.open_token_count += sealed == 0 ? 1 : 0;
  return stats;
}

}  // namespace vkv
