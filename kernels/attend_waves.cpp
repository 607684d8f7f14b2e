// attend_waves.cpp: groups of queries that fit.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/attend_waves.h"

#include <algorithm>
#include <cstddef>

#include "kernels/attend_plan.h"

namespace vkv {
namespace {

// Slots that so many queries of an item take if its tokens are not cut.
int64_t groups_of(const AttendItem& item, int q_count) {
  const int64_t rows = int64_t{q_count} * item.shape.group();
  return (rows + kRowsPerTile - 1) / kRowsPerTile * item.shape.kv_heads;
}

// The most slots of such queries: one more for each task that a group is cut into.
int64_t slots_of(const AttendItem& item, int q_count) {
  const int64_t groups = groups_of(item, q_count);
  return groups + groups * (units_of(item) + kTaskUnitsMax - 1) / kTaskUnitsMax;
}

// Of the queries from q_begin on, a count whose slots are no more than there are; 0: none.
int queries_that_fit(const AttendItem& item, int q_begin, int64_t slots) {
  for (int count = item.q_len - q_begin; count > 0; count /= 2)
    if (slots_of(item, count) <= slots) return count;
  return 0;
}

AttendItem part_of(const AttendItem& item, int q_begin, int q_count) {
  const size_t rows = static_cast<size_t>(q_begin) * static_cast<size_t>(item.shape.q_heads);
  const size_t values = rows * static_cast<size_t>(item.shape.head_dim);
  AttendItem part = item;
  part.q = item.q + values;
  part.out = item.out + values;
  part.lse = item.lse + rows;
  part.q_len = q_count;
  // Later queries of the item see later open tokens: leave those out.
  if (item.causal) part.open.token_count -= item.q_len - (q_begin + q_count);
  return part;
}

}  // namespace

std::vector<std::vector<AttendItem>> attend_waves(std::span<const AttendItem> items,
                                                  int64_t slots_max) {
  std::vector<std::vector<AttendItem>> waves;
  int64_t slots_left = 0;
  for (const AttendItem& item : items) {
    for (int q_begin = 0; q_begin < item.q_len;) {
      int count = waves.empty() ? 0 : queries_that_fit(item, q_begin, slots_left);
      if (count == 0) {
        waves.emplace_back();
        slots_left = slots_max / 2;
        count = std::max(1, queries_that_fit(item, q_begin, slots_left));
      }
      waves.back().push_back(part_of(item, q_begin, count));
      slots_left -= slots_of(item, count);
      q_begin += count;
    }
  }
  return waves;
}

}  // namespace vkv
