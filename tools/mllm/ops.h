// ops.h: the row-wise arithmetic between the matrix products, in fp32.
// SPDX-License-Identifier: Apache-2.0
//
// All run in parallel over rows on the TBB arena of the caller. A result does not depend on the
// number of threads: no sum crosses a row.
#pragma once

#include <cstdint>
#include <span>

namespace vkv {

// y = x / sqrt(mean(x^2) + epsilon) * weight. x and y are [rows, weight.size()] and may be one.
void rms_norm(const float* x, int64_t rows, std::span<const float> weight, float epsilon, float* y);

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias. x and y as in rms_norm.
void layer_norm(const float* x, int64_t rows, std::span<const float> weight,
                std::span<const float> bias, float epsilon, float* y);

// x[i] *= y[i]
void multiply(float* x, const float* y, int64_t value_count);

}  // namespace vkv
