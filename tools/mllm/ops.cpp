// ops.cpp: the row-wise arithmetic between the matrix products, in fp32.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/ops.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "cpu/parallel.h"

namespace vkv {
namespace {

// Below this many values a task costs more than its work.
constexpr int64_t kTaskValues = 16384;
constexpr double kValueNs = 1.0;  // about: some of the loops have an exponential
constexpr int64_t kLanes = 16;    // partial sums: lets the compiler use vector registers

template <class Body>
void for_rows(int64_t rows, int64_t row_values, const Body& body) {
  const int64_t grain = kTaskValues / row_values + 1;
  if (rows <= grain) return body(int64_t{0}, rows);
  const int64_t tasks = (rows + grain - 1) / grain;
  parallel_tasks(static_cast<size_t>(tasks), kValueNs * static_cast<double>(rows * row_values),
                 [&](size_t task) {
                   const int64_t begin = static_cast<int64_t>(task) * grain;
                   body(begin, std::min(rows, begin + grain));
                 });
}

// Sum of term(0..count-1) as 16 partial sums.
template <class Term>
float sum_of(int64_t count, const Term& term) {
  std::array<float, kLanes> partial{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      partial[static_cast<size_t>(lane)] += term(i + lane);
  float sum = 0;
  for (; i < count; ++i) sum += term(i);
  for (const float value : partial) sum += value;
  return sum;
}

}  // namespace

void rms_norm(const float* x, int64_t rows, std::span<const float> weight, float epsilon,
              float* y) {
  const auto columns = static_cast<int64_t>(weight.size());
  for_rows(rows, columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* const in = x + row * columns;
      float* const out = y + row * columns;
      const float squares = sum_of(columns, [&](int64_t i) { return in[i] * in[i]; });
      const float scale = 1.0f / std::sqrt(squares / static_cast<float>(columns) + epsilon);
      for (int64_t i = 0; i < columns; ++i) out[i] = in[i] * scale * weight[static_cast<size_t>(i)];
    }
  });
}

void layer_norm(const float* x, int64_t rows, std::span<const float> weight,
                std::span<const float> bias, float epsilon, float* y) {
  const auto columns = static_cast<int64_t>(weight.size());
  for_rows(rows, columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* const in = x + row * columns;
      float* const out = y + row * columns;
      const float mean =
          sum_of(columns, [&](int64_t i) { return in[i]; }) / static_cast<float>(columns);
      // Two passes: E[x^2] - mean^2 would cancel.
      const float squares =
          sum_of(columns, [&](int64_t i) { return (in[i] - mean) * (in[i] - mean); });
      const float scale = 1.0f / std::sqrt(squares / static_cast<float>(columns) + epsilon);
      for (int64_t i = 0; i < columns; ++i)
        out[i] =
            (in[i] - mean) * scale * weight[static_cast<size_t>(i)] + bias[static_cast<size_t>(i)];
    }
  });
}

void multiply(float* x, const float* y, int64_t value_count) {
  for_rows(value_count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x[i] *= y[i];
  });
}

std::vector<float> rope_frequency(int head_dim, double theta) {
  std::vector<float> frequency(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequency.size(); ++i)
    frequency[i] = 1.0f / std::pow(static_cast<float>(theta),
                                   static_cast<float>(2 * i) / static_cast<float>(head_dim));
  return frequency;
}

RopeTable::RopeTable(int64_t position, int64_t count, int head_dim, double theta)
    : count_(count),
      half_(head_dim / 2),
      cosine_(static_cast<size_t>(count * half_)),
      sine_(static_cast<size_t>(count * half_)) {
  const std::vector<float> frequency = rope_frequency(head_dim, theta);
  for_rows(count, half_, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int i = 0; i < half_; ++i) {
        const float angle = static_cast<float>(position + row) * frequency[static_cast<size_t>(i)];
        cosine_[static_cast<size_t>(row * half_ + i)] = std::cos(angle);
        sine_[static_cast<size_t>(row * half_ + i)] = std::sin(angle);
      }
  });
}

void RopeTable::apply(float* x, int heads) const {
  for_rows(count_, int64_t{heads} * half_ * 2, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* const cosine = cosine_.data() + row * half_;
      const float* const sine = sine_.data() + row * half_;
      for (int head = 0; head < heads; ++head) {
        float* const low = x + (row * heads + head) * half_ * 2;
        float* const high = low + half_;
        for (int i = 0; i < half_; ++i) {
          const float a = low[i], b = high[i];
          low[i] = a * cosine[i] - b * sine[i];
          high[i] = b * cosine[i] + a * sine[i];
        }
      }
    }
  });
}

}  // namespace vkv
