// attend_waves.h: what does not fit the work memory at once is attended in turn.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/backend.h"

namespace vkv {

// The items in groups, each of which needs no more than half of `slots_max` partials: the rest is
// for how the groups are cut. The queries of an item may be spread over several; of a causal one
// the later see open tokens that the earlier are not given. Depends on shapes and lengths alone.
std::vector<std::vector<AttendItem>> attend_waves(std::span<const AttendItem> items,
                                                  int64_t slots_max);

}  // namespace vkv
