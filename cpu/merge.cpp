// merge.cpp: a row of one item is a task.
// SPDX-License-Identifier: Apache-2.0
#include "cpu/merge.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "cpu/parallel.h"
#include "runtime/base/block_format.h"
#include "runtime/base/lse.h"

namespace vkv {
namespace {

constexpr size_t kTaskRows = 1;   // the partials of a row are read far apart anyway
constexpr double kValueNs = 0.2;  // of a partial, from a second-level cache

void merge_row(const MergeItem& item, size_t row) {
  const size_t head_dim = static_cast<size_t>(item.head_dim);
  std::array<float, kHeadDimMax> sum{};
  float lse = -std::numeric_limits<float>::infinity();
  for (const PartialView& partial : item.partials) {
    const MergeWeights weights = merge_weights(lse, partial.lse[row]);
    lse = weights.lse;
    if (weights.b == 0.0f) continue;
    const float* out = partial.out + row * head_dim;
    for (size_t c = 0; c < head_dim; ++c) sum[c] = weights.a * sum[c] + weights.b * out[c];
  }
  std::copy_n(sum.begin(), head_dim, item.out + row * head_dim);
  item.lse[row] = lse;
}

}  // namespace

void merge_partials(std::span<const MergeItem> items) {
  struct Task {
    const MergeItem* item;
    size_t row_begin;
  };
  std::vector<Task> tasks;
  double work_ns = 0;
  for (const MergeItem& item : items) {
    work_ns += kValueNs * static_cast<double>(item.row_count * item.partials.size()) *
               static_cast<double>(item.head_dim);
    for (size_t row = 0; row < item.row_count; row += kTaskRows) tasks.push_back({&item, row});
  }
  parallel_tasks(tasks.size(), work_ns, [&](size_t i) {
    const MergeItem& item = *tasks[i].item;
    const size_t end = std::min(item.row_count, tasks[i].row_begin + kTaskRows);
    for (size_t row = tasks[i].row_begin; row < end; ++row) merge_row(item, row);
  });
}

}  // namespace vkv
