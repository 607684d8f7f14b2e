// attend_plan.h: how the work of an attention call is cut, on the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "kernels/attend_work.h"
#include "runtime/base/backend.h"
#include "vkv/status.h"

namespace vkv {

// The blocks of a source that are known by a number (AttendItem::blocks_id).
struct KeptTable {
  size_t source = 0;
  std::span<const BlockView> blocks;  // the item's
  uint64_t id = 0;
};

// Those of an item whose layer is known by where its open tokens lie.
inline bool has_kept_table(const AttendItem& item) {
  return item.blocks_id != 0 && item.open.k != nullptr;
}

bool any_rotated(std::span<const BlockView> blocks);

// What a call will do. Valid as long as the items' blocks.
struct AttendPlan {
  // Where the tables are uploaded, `blocks` are set, and any_rotated of those with a kept table.
  std::vector<AttendSource> sources;
  std::vector<AttendTask> tasks;
  std::vector<MergeTask> merges;
  std::vector<BlockView> blocks;    // of the sources that have no kept table
  std::vector<size_t> first_block;  // of each source
  std::vector<KeptTable> kept;
  int channels = 0;
  int rows = 0;  // of a slot
  int slot_count = 0;
};

// Cuts the items into tasks for a device that runs `resident` thread blocks at once. Depends on the
// items' shapes and lengths alone, never on where their bytes lie. Errors: kInvalidArgument for
// items of different shapes, kUnsupported for a head_dim without kernels.
Result<AttendPlan> plan_attend(std::span<const AttendItem> items, int resident, int rows);

// Blocks, and runs of open tokens.
int units_of(const AttendItem& item);

// Rows of a slot: 4 where no KV head has more query rows than that, else 8.
int slot_rows(std::span<const AttendItem> items);

}  // namespace vkv
