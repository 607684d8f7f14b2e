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

constexpr int kQueryChunk = 256;  // scores of one head and chunk lie in memory at once

// c [m, n] = scale * a [m, k] * op(b); op(b) is b [k, n], or b [n, k] transposed.
void multiply(bool transpose_b, int64_t m, int64_t n, int64_t k, float scale, const float* a,
              int64_t a_row, const float* b, int64_t b_row, float* c, int64_t c_row) {
  VKV_CHECK(dnnl_sgemm('N', transpose_b ? 'T' : 'N', m, n, k, scale, a, a_row, b, b_row, 0.0f, c,
                       c_row) == dnnl_success);
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

Status SimulatedCache::append(int layer_index, const AppendRequest& request) {
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
    for (int begin = 0; begin < request.q_len; begin += kQueryChunk)
      for (int head = 0; head < options_.shape.q_heads; ++head)
        attend_head(layer_index, layer, request, head, begin,
                    std::min(kQueryChunk, request.q_len - begin), lse.data());
    VKV_TRY(seal_simulated(layer, {.options = &options_,
                                   .scheme = &scheme_,
                                   .roles = sequence->roles,
                                   .q_len = request.q_len,
                                   .q = static_cast<const float*>(request.q),
                                   .lse = lse.data(),
                                   .score_scale = scale_,
                                   .ends_window = request.ends_window}));
  }
  return {};
}

void SimulatedCache::attend_head(int layer_index, const SimulatedLayer& layer,
                                 const AttendRequest& request, int head, int begin, int count,
                                 float* lse) {
  const int64_t dim = options_.shape.head_dim, q_row = options_.shape.q_heads * dim;
  const int64_t kv_row = options_.shape.kv_heads * dim;
  const int64_t kv_offset = head / options_.shape.group() * dim;
  const int64_t tokens = layer.token_count();
  const float* const q = static_cast<const float*>(request.q) + begin * q_row + head * dim;
  float* const out = static_cast<float*>(request.out) + begin * q_row + head * dim;

  std::vector<float> weight(static_cast<size_t>(count * tokens));
  multiply(true, count, tokens, dim, scale_, q, q_row, layer.k.data() + kv_offset, kv_row,
           weight.data(), tokens);
  if (corrects_scores()) correct_scores(layer_index, layer, q, head, count, weight);
  if (scheme_.kind == SchemeKind::kCalibQuant) {
    const std::vector<uint32_t> low = low_tokens(layer);
    for (int i = 0; i < count; ++i) calibrate_scores(scheme_, low, weight.data() + i * tokens);
  }
  for (int i = 0; i < count; ++i) {
    float* const row = weight.data() + i * tokens;
    const int64_t visible = tokens - request.q_len + begin + i + 1;
    const float greatest = *std::max_element(row, row + visible);
    double sum = 0;
    for (int64_t t = 0; t < visible; ++t) sum += row[t] = std::exp(row[t] - greatest);
    for (int64_t t = 0; t < visible; ++t) row[t] = static_cast<float>(row[t] / sum);
    std::fill(row + visible, row + tokens, 0.0f);
    lse[(begin + i) * options_.shape.q_heads + head] = static_cast<float>(greatest + std::log(sum));
  }
  multiply(false, count, dim, tokens, 1.0f, weight.data(), tokens, layer.v.data() + kv_offset,
           kv_row, out, q_row);
}

// Scores about the middle of the levels, times lambda; and what lambda is fitted from.
void SimulatedCache::correct_scores(int layer_index, const SimulatedLayer& layer, const float* q,
                                    int head, int count, std::span<float> scores) {
  const std::vector<uint32_t> low = low_tokens(layer);
  if (low.empty()) return;
  const int64_t dim = options_.shape.head_dim, q_row = options_.shape.q_heads * dim;
  const int64_t kv_row = options_.shape.kv_heads * dim;
  const int64_t kv_offset = head / options_.shape.group() * dim, tokens = layer.token_count();
  const auto factor = static_cast<size_t>(layer_index * options_.shape.q_heads + head);
  const auto scores_of = [&](const std::vector<float>& k) {
    std::vector<float> result(scores.size());
    multiply(true, count, tokens, dim, scale_, q, q_row, k.data() + kv_offset, kv_row,
             result.data(), tokens);
    return result;
  };
  const std::vector<float> middle = scores_of(layer.k_middle);
  if (scheme_.fits_lambda) {
    const std::vector<float> given = scores_of(layer.k_given);
    for (int i = 0; i < count; ++i) {
      double x = 0, y = 0, xx = 0, xy = 0;  // x: quantized, y: true
      for (const uint32_t t : low) {
        const auto at = static_cast<size_t>(i * tokens + t);
        const double dx = double{scores[at]} - middle[at], dy = double{given[at]} - middle[at];
        x += dx, y += dy, xx += dx * dx, xy += dx * dy;
      }
      const auto n = static_cast<double>(low.size());
      fit_.covariance[factor] += xy - x * y / n;
      fit_.variance[factor] += xx - x * x / n;
    }
  }
  if (!scheme_.lambda) return;
  const float lambda = (*scheme_.lambda)[factor];
  for (int i = 0; i < count; ++i)
    for (const uint32_t t : low) {
      const auto at = static_cast<size_t>(i * tokens + t);
      scores[at] = middle[at] + lambda * (scores[at] - middle[at]);
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
