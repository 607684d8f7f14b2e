// ops.cpp: the row-wise arithmetic between the matrix products, in fp32.
// SPDX-License-Identifier: Apache-2.0
#include "tools/mllm/ops.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "tools/mllm/row_tasks.h"

namespace vkv {
namespace {

constexpr int64_t kLanes = 16;  // partial sums: lets the compiler use vector registers

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

}  // namespace vkv
