// row_tasks.h: loops over rows, in parallel where that pays.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cpu/parallel.h"

namespace vkv {

// Calls body(begin, end) for parts of [0, rows), on the TBB arena of the caller. `row_values`: how
// many values a row has, of which each takes about a nanosecond (some loops have an exponential).
template <class Body>
void for_rows(int64_t rows, int64_t row_values, const Body& body) {
  constexpr int64_t kTaskValues = 16384;  // below so many a task costs more than its work
  constexpr double kValueNs = 1.0;
  const int64_t grain = kTaskValues / row_values + 1;
  if (rows <= grain) return body(int64_t{0}, rows);
  const int64_t tasks = (rows + grain - 1) / grain;
  parallel_tasks(static_cast<size_t>(tasks), kValueNs * static_cast<double>(rows * row_values),
                 [&](size_t task) {
                   const int64_t begin = static_cast<int64_t>(task) * grain;
                   body(begin, std::min(rows, begin + grain));
                 });
}

}  // namespace vkv
