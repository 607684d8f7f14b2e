// quality_meter.cpp: which steps are sampled, and the errors of heads.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/quality_meter.h"

#include <algorithm>
#include <cmath>

namespace vkv {
namespace {

double norm(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * double{value};
  return std::sqrt(sum);
}

}  // namespace

bool QualityMeter::samples(uint64_t step, int layer) const {
  if (options_.sample_fraction <= 0) return false;
  // Multiples of the golden ratio fall evenly into [0, 1), however few are taken.
  const double at = static_cast<double>(step) * 0.6180339887498949 + layer * 0.7548776662466927;
  return at - std::floor(at) < options_.sample_fraction;
}

bool QualityMeter::add(std::span<const float> difference, std::span<const float> exact) {
  const size_t head_dim = static_cast<size_t>(shape_.head_dim);
  double most = 0;
  for (size_t at = 0; at < exact.size(); at += head_dim) {
    const double size = norm(exact.subspan(at, head_dim));
    const double error = size == 0 ? 0 : norm(difference.subspan(at, head_dim)) / size;
    error_sum_ += error;
    ++stats_.error_count;
    most = std::max(most, error);
  }
  ++stats_.sample_count;
  stats_.error_max = std::max(stats_.error_max, most);
  const bool over = options_.error_bound > 0 && most > options_.error_bound;
  stats_.over_bound_count += over ? 1 : 0;
  return over;
}

QualityStats QualityMeter::stats() const {
  QualityStats stats = stats_;
  if (stats.error_count > 0) stats.error_mean = error_sum_ / static_cast<double>(stats.error_count);
  return stats;
}

SealSample::SealSample(const KvShape& shape, float scale, Backend& backend, const Query& query)
    : shape_(shape),
      scale_(scale),
      backend_(backend),
      query_(query),
      difference_(static_cast<size_t>(shape.q_heads * shape.head_dim)) {}

Status SealSample::add(const BlockView& block, const OpenTokens& exact, const float* k_mean) {
  const size_t q_heads = static_cast<size_t>(shape_.q_heads);
  const size_t head_dim = static_cast<size_t>(shape_.head_dim);
  std::vector<float> out(2 * q_heads * head_dim), lse(2 * q_heads);
  AttendItem items[2];
  for (size_t i = 0; i < 2; ++i)
    items[i] = {.shape = shape_,
                .scale = scale_,
                .q_len = 1,
                .q = query_.q,
                .k_mean = k_mean,
                .out = &out[i * q_heads * head_dim],
                .lse = &lse[i * q_heads]};
  items[0].blocks = {&block, 1};
  items[1].open = exact;
  VKV_TRY(backend_.attend(items));

  for (size_t head = 0; head < q_heads; ++head) {
    // The whole attention's lse may be relative to another mean: no mean was fixed at that time.
    const size_t kv_row = head / static_cast<size_t>(shape_.group()) * head_dim;
    double shift = 0;
    for (size_t c = 0; c < head_dim; ++c) {
      const double now = k_mean == nullptr ? 0.0 : double{k_mean[kv_row + c]};
      const double then = query_.k_mean == nullptr ? 0.0 : double{query_.k_mean[kv_row + c]};
      shift += double{query_.q[head * head_dim + c]} * (now - then);
    }
    const double whole = double{query_.lse[head]} - shift * double{scale_};
    const double coded_weight = std::exp(double{lse[head]} - whole);
    const double exact_weight = std::exp(double{lse[q_heads + head]} - whole);
    for (size_t i = head * head_dim; i < (head + 1) * head_dim; ++i)
      difference_[i] += static_cast<float>(coded_weight * double{out[i]} -
                                           exact_weight * double{out[q_heads * head_dim + i]});
  }
  return {};
}

}  // namespace vkv
